import pyvista

pyvista.OFF_SCREEN = True
plotter = pyvista.Plotter(window_size=(120, 80))
plotter.add_mesh(pyvista.Sphere(), color="red")
picture = plotter.screenshot("/output/sphere.png", return_img=True)
print(type(plotter.render_window).__name__, picture.shape, bool((picture[40, 60] != picture[0, 0]).any()))
