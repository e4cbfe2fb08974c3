/* What the kernel alone takes for a pod of one container: the same namespaces, cgroups, mounts and
 * exec as Bulkhead's, by bare system calls, with nothing decided, recorded, checked or answered.
 *
 *   kernel-alone ROUNDS ROOTFS DIR CGROUP HIERARCHY...
 *
 * ROOTFS is a directory with /bin/sleep (static) and the directories of a root; DIR an empty one on
 * the disk of the images; CGROUP a name in each HIERARCHY (mount points of cgroup v1, or the one of v2).
 * For each round one line: microseconds up and down. Up is: network, ipc and uts namespace bound to
 * files, lo up, /dev/shm, the cgroups of pod and container, an overlay, the first process in new mount,
 * pid and cgroup namespaces with its mounts made and its root pivoted, execve. Down is: kill, wait, unmount,
 * remove. No veth, no bridge, no firewall: they are not a pod's own cost.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *rootfs, *dir, *group;
static char **hierarchies;
static int count;

static void must(long result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "kernel-alone: %s: %s\n", what, strerror(errno));
        _exit(1);
    }
}

static long micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static char *at(const char *base, const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    must(fd, path);
    must(write(fd, text, strlen(text)), path);
    close(fd);
}

static void touch(const char *path) {
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0444);
    must(fd, path);
    close(fd);
}

/* A child that makes the namespaces of the pod, binds them and ends. */
static void pin(void) {
    static const char *const names[3][2] = {{"net", "/proc/self/ns/net"}, {"ipc", "/proc/self/ns/ipc"}, {"uts", "/proc/self/ns/uts"}};
    pid_t child = fork();
    must(child, "fork");
    if (child == 0) {
        must(unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "unshare");
        must(sethostname("alone", 5), "sethostname");
        struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        must(ioctl(fd, SIOCSIFFLAGS, &lo), "lo");
        for (int i = 0; i < 3; i++) {
            touch(at(dir, names[i][0]));
            must(mount(names[i][1], at(dir, names[i][0]), 0, MS_BIND, 0), "bind a namespace");
        }
        _exit(0);
    }
    int status;
    must(waitpid(child, &status, 0), "wait");
    if (status) _exit(1);
}

static void each_cgroup(int (*verb)(const char *), const char *suffix) {
    char name[300];
    snprintf(name, sizeof name, "%s%s", group, suffix);
    for (int i = 0; i < count; i++) must(verb(at(hierarchies[i], name)), name);
}

static int make(const char *path) {
    if (mkdir(path, 0755)) return -1;
    /* A cpuset of v1 begins empty, and takes nobody so. */
    if (strstr(path, "/cpuset")) {
        static char buffer[256];
        for (int i = 0; i < 2; i++) {
            const char *file = i ? "cpuset.mems" : "cpuset.cpus";
            char parent[600];
            snprintf(parent, sizeof parent, "%s/../%s", path, file);
            int fd = open(parent, O_RDONLY | O_CLOEXEC);
            long length = fd < 0 ? 0 : read(fd, buffer, sizeof buffer - 1);
            if (fd >= 0) close(fd);
            if (length > 0) {
                buffer[length] = 0;
                put(at(path, file), buffer);
            }
        }
    }
    return 0;
}

/* By v1's `tasks` where it is there: a single thread that moves itself so waits for no grace period of RCU. */
static int enter(const char *path) {
    const char *tasks = at(path, "tasks");
    put(access(tasks, W_OK) == 0 ? tasks : at(path, "cgroup.procs"), "0");
    return 0;
}

static int overlay(void) {
    int fs = syscall(SYS_fsopen, "overlay", 1);
    must(fs, "fsopen overlay");
    must(syscall(SYS_fsconfig, fs, 1, "lowerdir", rootfs, 0), "lowerdir");
    must(syscall(SYS_fsconfig, fs, 1, "upperdir", at(dir, "upper"), 0), "upperdir");
    must(syscall(SYS_fsconfig, fs, 1, "workdir", at(dir, "work"), 0), "workdir");
    must(syscall(SYS_fsconfig, fs, 6, 0, 0, 0), "overlay");
    int mount = syscall(SYS_fsmount, fs, 1, 0);
    must(mount, "fsmount overlay");
    close(fs);
    return mount;
}

/* The container's first process, from clone to execve. */
static void first(int root) {
    static const struct { const char *type, *where, *data; unsigned long flags; } mounts[] = {
        {"proc", "proc", 0, MS_NOSUID | MS_NODEV | MS_NOEXEC},
        {"tmpfs", "dev", "mode=755,size=65536k", MS_NOSUID},
        {"devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=0620", MS_NOSUID | MS_NOEXEC},
        {"mqueue", "dev/mqueue", 0, MS_NOSUID | MS_NODEV | MS_NOEXEC},
        {"sysfs", "sys", 0, MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY},
    };
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"net", "ipc", "uts"};
        int fd = open(at(dir, names[i]), O_RDONLY | O_CLOEXEC);
        must(setns(fd, 0), names[i]);
        close(fd);
    }
    each_cgroup(enter, "/container");
    must(unshare(CLONE_NEWCGROUP), "unshare cgroup");
    must(mount(0, "/", 0, MS_REC | MS_SLAVE, 0), "slave");
    must(syscall(SYS_move_mount, root, "", -1, at(dir, "merged"), 4), "move_mount");
    must(chdir(at(dir, "merged")), "chdir");
    for (unsigned i = 0; i < sizeof mounts / sizeof mounts[0]; i++) {
        if (strncmp(mounts[i].where, "dev/", 4) == 0) must(mkdir(mounts[i].where, 0755), mounts[i].where);
        must(mount(mounts[i].type, mounts[i].where, mounts[i].type, mounts[i].flags, mounts[i].data), mounts[i].where);
    }
    must(mkdir("dev/shm", 01777), "dev/shm");
    must(mount(at(dir, "shm"), "dev/shm", 0, MS_BIND, 0), "bind shm");
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount the old root");
    execl("/bin/sleep", "sleep", "100000", (char *)0);
    must(-1, "execve");
}

static pid_t start(int root) {
    int ends[2];
    must(pipe2(ends, O_CLOEXEC), "pipe");
    struct clone_args args = {.flags = CLONE_NEWNS | CLONE_NEWPID, .exit_signal = SIGCHLD};
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    must(pid, "clone3");
    if (pid == 0) first(root);
    close(ends[1]);
    close(root);
    /* Ends with execve, which closes the other end. */
    char byte;
    must(read(ends[0], &byte, 1), "read");
    close(ends[0]);
    if (waitpid(pid, 0, WNOHANG) != 0) _exit(1);
    return pid;
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: kernel-alone ROUNDS ROOTFS DIR CGROUP HIERARCHY...\n");
        return 2;
    }
    int rounds = atoi(argv[1]);
    rootfs = argv[2], dir = argv[3], group = argv[4], hierarchies = argv + 5, count = argc - 5;
    for (int round = 0; round < rounds; round++) {
        long begin = micros();
        must(mkdir(dir, 0755), dir);
        pin();
        must(mkdir(at(dir, "shm"), 01777), "shm");
        must(mount("shm", at(dir, "shm"), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"), "mount shm");
        static const char *const layers[] = {"upper", "work", "merged"};
        for (int i = 0; i < 3; i++) must(mkdir(at(dir, layers[i]), 0755), layers[i]);
        each_cgroup(make, "");
        each_cgroup(make, "/container");
        pid_t pid = start(overlay());
        long up = micros();
        must(kill(pid, SIGKILL), "kill");
        must(waitpid(pid, 0, 0), "wait");
        each_cgroup(rmdir, "/container");
        each_cgroup(rmdir, "");
        static const char *const bound[] = {"net", "ipc", "uts", "shm"};
        for (int i = 0; i < 4; i++) {
            must(umount2(at(dir, bound[i]), MNT_DETACH), bound[i]);
            must(i < 3 ? unlink(at(dir, bound[i])) : rmdir(at(dir, bound[i])), bound[i]);
        }
        must(rmdir(at(dir, "work/work")), "work/work");
        for (int i = 0; i < 3; i++) must(rmdir(at(dir, layers[i])), layers[i]);
        must(rmdir(dir), dir);
        printf("%ld %ld\n", up - begin, micros() - up);
        fflush(stdout);
    }
    return 0;
}
