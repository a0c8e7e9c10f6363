"""A machine of the small internet: says which of its addresses was connected to, sends back what it gets, and knows names.

far.py FIFO LOG [dns] [tls=FILE]: a line in FIFO when ready, a line in LOG for each connection; with the key and the
certificate in FILE it also speaks https. Ends by itself after ten minutes.
"""
import signal
import socket
import socketserver
import ssl
import sys
import threading

NAMES = {
    "service.example.org": ["11.0.0.1"],
    "second.example.org": ["11.0.0.1"],
    "private.example.org": ["10.9.9.9"],
    "metadata.example.org": ["169.254.169.254"],
    "loopback.example.org": ["127.0.0.1"],
    "own.example.org": ["11.0.0.2"],
    "secondary.example.org": ["11.0.0.3"],
    "mixed.example.org": ["10.9.9.9", "11.0.0.1"],
    "silent.example.org": ["11.0.0.99"],
}
# Changes its mind at each question.
REBIND = [["11.0.0.1"], ["10.9.9.9"]]


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        address, port = self.request.getsockname()
        with open(LOG, "a") as log:
            log.write(f"{address}:{port}\n")
        self.request.sendall(f"{address}:{port}\n".encode())
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Https(socketserver.StreamRequestHandler):
    def setup(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS)
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")


class Dns(socketserver.BaseRequestHandler):
    asked = 0

    def handle(self):
        query, server = self.request
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        question, kind = query[12 : at + 5], query[at + 2]
        name = ".".join(labels).lower()
        addresses = NAMES.get(name)
        if name == "rebind.example.org" and kind == 1:
            addresses = REBIND[Dns.asked % 2]
            Dns.asked += 1
        found = addresses if addresses and kind == 1 else []
        code = 0 if addresses or name == "rebind.example.org" else 3
        header = query[:2] + bytes([0x81, 0x80 | code, 0, 1, 0, len(found), 0, 0, 0, 0])
        records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in found)
        server.sendto(header + question + records, self.client_address)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    # Twenty come at once; whom the queue has no room for is not served within a minute.
    request_queue_size = 64


FIFO, LOG = sys.argv[1:3]
signal.alarm(600)
servers = [Server(("0.0.0.0", port), Echo) for port in (8080, 8443)]
for TLS in (word[4:] for word in sys.argv[3:] if word.startswith("tls=")):
    servers.append(Server(("0.0.0.0", 8444), Https))
if "dns" in sys.argv[3:]:
    servers.append(socketserver.ThreadingUDPServer(("0.0.0.0", 53), Dns))
for server in servers:
    threading.Thread(target=server.serve_forever).start()
with open(FIFO, "w") as fifo:
    fifo.write("ready\n")
