/* An ordinary MPI program that knows nothing of gridpilot: a token goes round over all ranks,
 * each adding its own number; every pair of ranks shakes hands; then all of them add up the same
 * numbers at once. Ends with 0 when every value is right, else with 1.
 *
 * About its end: MPICH 4.0 and 4.1 on UCX over TCP, Debian 12's among them, hang now and then in
 * MPI_Finalize, on any machine: a rank whose own connections are flushed waits in a barrier
 * where it no longer answers the flush of a slower one (taken out upstream: pmodels/mpich pull
 * request 6596). It cannot happen when every pair has talked both ways and nobody is inside MPI
 * when the first rank comes to its end; hence the hand-shakes and the pause. */
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

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

    for (int other = 0; other < size; other++) {
        long theirs = -1, ours = rank;
        if (other == rank)
            continue;
        MPI_Sendrecv(&ours, 1, MPI_LONG, other, 9, &theirs, 1, MPI_LONG, other, 9,
                     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (theirs != other)
            bad |= wrong(rank, "a hand-shake", theirs, other);
    }

    mine = rank + 1;
    MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (sum != (long)size * (size + 1) / 2)
        bad |= wrong(rank, "the sum", sum, (long)size * (size + 1) / 2);

    printf("rank %d of %d on %s: sum %ld\n", rank, size, host, sum);
    MPI_Allreduce(&bad, &bad_anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0 && !bad_anywhere)
        printf("the token came round over %d ranks and brought %ld: right\n", size, token);
    fflush(stdout);
    usleep(500 * 1000);
    MPI_Finalize();
    return bad_anywhere;
}
