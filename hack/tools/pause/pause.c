/* The pause program of the bench's peer: sleeps for ever, reaps what it inherits. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int sig) { _exit(128 + sig); }
static void reap(int sig) { (void)sig; while (waitpid(-1, 0, WNOHANG) > 0) { } }

int main(void) {
    struct sigaction quit = { .sa_handler = end }, child = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };
    sigaction(SIGINT, &quit, 0);
    sigaction(SIGTERM, &quit, 0);
    sigaction(SIGCHLD, &child, 0);
    for (;;) pause();
}
