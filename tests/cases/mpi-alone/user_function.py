from mpi4py import MPI

world = MPI.COMM_WORLD
parts = world.gather(world.allreduce(3))
print(MPI.Get_library_version().split(",")[0], world.rank, world.size, parts)
