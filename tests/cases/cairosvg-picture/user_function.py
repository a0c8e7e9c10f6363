import struct
from ctypes.util import find_library

import cairosvg

drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="80" height="60"><circle cx="40" cy="30" r="20" fill="red"/></svg>'
picture = cairosvg.svg2png(bytestring=drawing.encode())
print(find_library("cairo"), struct.unpack(">II", picture[16:24]))
