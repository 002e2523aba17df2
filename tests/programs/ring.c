/* An ordinary MPI program that knows nothing of gridpilot: a token goes round over all ranks,
 * each adding its own number, then all of them add up the same numbers at once. Ends with 0
 * when every value is right, else with 1. */
#include <mpi.h>
#include <stdio.h>

static int wrong(int rank, const char *what, long got, long expected)
{
    fprintf(stderr, "rank %d: %s is %ld, expected %ld\n", rank, what, got, expected);
    return 1;
}

int main(int argc, char **argv)
{
    int rank, size, length, bad = 0, bad_anywhere = 0;
    char host[MPI_MAX_PROCESSOR_NAME];
    long token = 0, mine, sum = 0;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(host, &length);

    if (rank > 0) {
        MPI_Recv(&token, 1, MPI_LONG, rank - 1, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (token != (long)rank * (rank - 1) / 2)
            bad |= wrong(rank, "the token", token, (long)rank * (rank - 1) / 2);
    }
    token += rank;
    if (size > 1)
        MPI_Send(&token, 1, MPI_LONG, (rank + 1) % size, 7, MPI_COMM_WORLD);
    if (rank == 0 && size > 1) {
        MPI_Recv(&token, 1, MPI_LONG, size - 1, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (token != (long)size * (size - 1) / 2)
            bad |= wrong(rank, "the token", token, (long)size * (size - 1) / 2);
    }

    mine = rank + 1;
    MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (sum != (long)size * (size + 1) / 2)
        bad |= wrong(rank, "the sum", sum, (long)size * (size + 1) / 2);

    printf("rank %d of %d on %s: sum %ld\n", rank, size, host, sum);
    MPI_Allreduce(&bad, &bad_anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0 && !bad_anywhere)
        printf("the token came round over %d ranks and brought %ld: right\n", size, token);
    MPI_Finalize();
    return bad_anywhere;
}
