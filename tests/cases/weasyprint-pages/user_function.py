import weasyprint

report = weasyprint.HTML(string="<h1>Contrainte é ≤ 235 MPa</h1><p style='break-before: page'>Page 2</p>").render()
report.write_pdf("/output/report.pdf")
with open("/output/report.pdf", "rb") as file:
    print(file.read(5), len(report.pages))
