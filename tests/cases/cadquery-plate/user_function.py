import cadquery

plate = cadquery.Workplane("XY").box(10, 20, 3).faces(">Z").workplane().hole(4)
cadquery.exporters.export(plate, "/output/plate.step")
print(round(plate.val().Volume(), 2), len(plate.faces().vals()))
