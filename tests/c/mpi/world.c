/* A program of MPI that appends to argv[1] the size of its world, as MPI has it. */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv) {
  int size = 0;
  if (argc != 2 || MPI_Init(&argc, &argv)) return 90;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  FILE *file = fopen(argv[1], "a");
  if (!file || fprintf(file, "%d\n", size) < 0 || fclose(file)) return 91;
  MPI_Finalize();
  return 0;
}
