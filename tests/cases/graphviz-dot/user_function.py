import graphviz

graph = graphviz.Digraph()
graph.edge("load", "mesh")
graph.edge("mesh", "solve")
svg = graph.pipe(format="svg").decode()
print(svg.count('class="edge"'), "mesh" in svg)
print(graph.pipe(format="png")[:4])
