// Makes every system call there is, each in a process of its own and with arguments that nothing can be done with, and
// tells what it met: an error number, a signal, or neither. Then a few with arguments that filters look at, calls of the
// 32-bit architecture and of x32. With an argument, those few alone.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST = 470, SUCCEEDED = 200 };

struct call {
    const char *kind;
    long number;
    long arguments[6];
};

// One of i386, through the door of that architecture.
static long call_32(const struct call *call)
{
    long result;
    const long *a = call->arguments;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(call->number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "memory", "r8", "r9", "r10", "r11");
    if (result >= 0 || result < -4095) return 0;
    errno = (int)-result;
    return -1;
}

static void make(const struct call *call)
{
    const long *a = call->arguments;
    long result;
    alarm(2);
    if (call->kind[0] == 'i')
        result = call_32(call);
    else
        result = syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    _exit(result == -1 ? errno : SUCCEEDED);
}

static void try(const struct call *call)
{
    int status;
    pid_t child = fork();
    if (child == 0) make(call);
    if (child < 0 || waitpid(child, &status, 0) != child) {
        printf("cannot try: %d\n", errno);
        return;
    }
    printf("%s %ld(%#lx, %#lx): ", call->kind, call->number, call->arguments[0], call->arguments[1]);
    if (WIFSIGNALED(status))
        printf("signal %d\n", WTERMSIG(status));
    else if (WEXITSTATUS(status) == SUCCEEDED)
        printf("success\n");
    else
        printf("error %d\n", WEXITSTATUS(status));
}

static int is_untried(long number)
{
    // They wait, write everything to disks, return where the stack is another's, or go on with what was before.
    return number == SYS_pause || number == SYS_sync || number == SYS_vfork || number == SYS_restart_syscall;
}

int main(int count, char **arguments)
{
    static const struct call particular[] = {
        {"x86-64", SYS_mkdir, {0}},
        {"x86-64", SYS_mkdirat, {-1}},
        {"x86-64", SYS_mkdir, {-1, -1}},
        {"x86-64", SYS_rmdir, {0}},
        {"x86-64", SYS_rmdir, {-1}},
        {"x86-64", SYS_rename, {-1}},
        {"x86-64", SYS_access, {-1}},
        {"x86-64", SYS_open, {-1}},
        {"x86-64", SYS_clone3, {-1}},
        {"x86-64", SYS_personality, {0}},
        {"x86-64", SYS_personality, {8}},
        {"x86-64", SYS_personality, {0x20000}},
        {"x86-64", SYS_personality, {0x20008}},
        {"x86-64", SYS_personality, {0xffffffff}},
        {"x86-64", SYS_personality, {0x40000}},
        {"x86-64", SYS_personality, {0x100000008}},
        {"x86-64", SYS_unshare, {0x10000000}},
        {"x86-64", SYS_unshare, {0x400}},
        {"x86-64", SYS_clone, {0x10000000 | SIGCHLD}},
        {"x86-64", SYS_clone, {0x7e020000}},
        {"x86-64", SYS_clone, {SIGCHLD}},
        {"x86-64", SYS_socket, {1, 1}},
        {"x86-64", SYS_socket, {1, 2}},
        {"x86-64", SYS_socket, {2, 2}},
        {"x86-64", SYS_socket, {16, 3}},
        {"x86-64", SYS_socket, {40, 1}},
        {"x86-64", SYS_dup, {0}},
        {"x86-64", SYS_dup, {1}},
        {"x86-64", SYS_dup, {2}},
        {"x86-64", SYS_dup, {0x100000001}},
        {"x86-64", SYS_dup, {7, 7}},
        {"i386", 39, {0}},
        {"i386", 136, {0}},
        {"i386", 136, {8}},
        {"i386", 136, {7}},
        {"i386", 41, {1}},
        {"i386", 41, {2}},
        {"i386", 20, {0}},
        {"i386", 359, {1, 1}},
        {"i386", 359, {40, 1}},
        {"i386", 102, {1, 0}},
        {"i386", 435, {0}},
        {"i386", 460, {0}},
        {"i386", 900, {0}},
        {"x32", 0x40000000 | SYS_getpid, {0}},
        {"x32", 0x40000000 | SYS_mkdir, {0}},
        {"x32", 0x40000000 | 900, {0}},
        {"x86-64", 900, {0}},
        {"x86-64", 5000, {0}},
    };
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    printf("## calls\n");
    fflush(stdout);
    (void)arguments;
    for (long number = 0; count == 1 && number <= LAST; number++) {
        struct call call = {"x86-64", number, {-1, -1, -1, -1, -1, -1}};
        if (!is_untried(number)) try(&call);
    }
    for (size_t index = 0; index < sizeof particular / sizeof particular[0]; index++) try(&particular[index]);
    printf("## end\n");
    return 0;
}
