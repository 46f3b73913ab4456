/* What a shell cannot do. Each subcommand says with one line what became of it: "done …" or "refused …". */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int said(const char *what, int failed) {
  if (failed)
    printf("refused %s: %s\n", what, strerror(errno));
  else
    printf("done %s\n", what);
  fflush(stdout);
  return failed ? 1 : 0;
}

/* Prints every canary of a buffer, canary-<word>-<16 hexadecimal digits>, and where a JSON web token begins. */
static int canaries(const char *buffer, ssize_t size, const char *where) {
  int found = 0;
  /* Every letter plus one, so that the program does not find itself. */
  static char token[] = "fzKicHdjPj";
  if (token[0] == 'f')
    for (int i = 0; token[i]; i++) token[i]--;
  if (memmem(buffer, size, token, strlen(token))) {
    printf("LEAK %s token\n", where);
    found = 1;
  }
  for (ssize_t i = 0; i + 28 < size; i++) {
    if (memcmp(buffer + i, "canary", 6) || buffer[i + 6] != '-') continue;
    ssize_t end = i + 7;
    while (end < size && (isalnum((unsigned char)buffer[end]) || buffer[end] == '-')) end++;
    if (end - i > 24 && end - i < 80) {
      printf("LEAK %s %.*s\n", where, (int)(end - i), buffer + i);
      found = 1;
    }
    i = end;
  }
  return found;
}

/* The writable memory of a process, by /proc/PID/mem. */
static int memory(const char *pid) {
  char path[64], line[512];
  snprintf(path, sizeof path, "/proc/%s/maps", pid);
  FILE *maps = fopen(path, "r");
  if (!maps) return said("maps", 1);
  snprintf(path, sizeof path, "/proc/%s/mem", pid);
  int mem = open(path, O_RDONLY);
  if (mem < 0) return said("mem", 1);
  static char buffer[1 << 20];
  while (fgets(line, sizeof line, maps)) {
    unsigned long from, to;
    char mode[5];
    if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) != 3 || mode[0] != 'r' || mode[1] != 'w') continue;
    for (; from < to; from += sizeof buffer - 128) {
      size_t size = to - from < sizeof buffer ? to - from : sizeof buffer;
      ssize_t got = pread(mem, buffer, size, (off_t)from);
      if (got <= 0) break;
      canaries(buffer, got, path);
    }
  }
  return said("memory", 0);
}

static int trace(const char *pid) {
  /* Not PTRACE_ATTACH, whose SIGSTOP would stay behind a signal that comes first, and the process stopped for ever. */
  if (ptrace(PTRACE_SEIZE, atoi(pid), 0, 0)) return said("ptrace", 1);
  ptrace(PTRACE_INTERRUPT, atoi(pid), 0, 0);
  int status = 0;
  if (waitpid(atoi(pid), &status, __WALL) > 0 && WIFSTOPPED(status)) {
    int signal = status >> 16 == PTRACE_EVENT_STOP ? 0 : WSTOPSIG(status);
    ptrace(PTRACE_DETACH, atoi(pid), 0, signal);
  }
  return said("ptrace", 0);
}

/* A stream socket by its name; '@' begins an abstract one. */
static int dial(const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(name);
  if (length >= sizeof address.sun_path) length = sizeof address.sun_path - 1;
  memcpy(address.sun_path, name, length);
  if (*name == '@') address.sun_path[0] = 0;
  int type[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
  for (int i = 0; i < 3; i++) {
    int fd = socket(AF_UNIX, type[i], 0);
    if (!connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + length)) {
      printf("done socket %s\n", name);
      return 0;
    }
    close(fd);
    if (errno != EPROTOTYPE) break;
  }
  return said("socket", 1);
}

/* Listens under a name until it is killed. */
static int listen_on(const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(name);
  memcpy(address.sun_path, name, length);
  if (*name == '@') address.sun_path[0] = 0;
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + length) || listen(fd, 9)) return said("listen", 1);
  for (;;) close(accept(fd, 0, 0));
}

static int enter(const char *pid) {
  const char *kinds[] = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"};
  int entered = 0;
  for (int i = 0; i < 7; i++) {
    char path[64], mine[64], theirs[64];
    snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kinds[i]);
    ssize_t size = readlink(path, theirs, sizeof theirs - 1);
    if (size < 0) continue;
    theirs[size] = 0;
    snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
    size = readlink(path, mine, sizeof mine - 1);
    mine[size < 0 ? 0 : size] = 0;
    if (!strcmp(mine, theirs)) continue;
    snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kinds[i]);
    int fd = open(path, O_RDONLY);
    if (fd >= 0 && !setns(fd, 0)) {
      printf("done setns %s of %s\n", kinds[i], pid);
      entered = 1;
    }
    if (fd >= 0) close(fd);
  }
  if (!entered) printf("refused setns\n");
  return !entered;
}

/* Adds a key where other processes of the same user may find it: in the rings of session and user. */
static int key(const char *content) {
  int failed = 0;
  for (long ring = -3; ring >= -5; ring--)
    failed |= syscall(SYS_add_key, "user", "victim", content, strlen(content), ring) < 0;
  return said("key", failed);
}

/* Every key whose number can be guessed from /proc/keys, and those of the usual rings. What is linked to one's own ring
   is possessed, which may be more than the user has. */
static int keys(void) {
  long rings[] = {-1, -2, -3, -4, -5, 0};
  char buffer[4096];
  int failed = syscall(SYS_keyctl, 0 /* number of a ring */, -2, 1) < 0;
  said("ring", failed);
  syscall(SYS_keyctl, 8 /* link */, -4, -2);
  syscall(SYS_keyctl, 8, -5, -2);
  for (int i = 0; rings[i]; i++) {
    int list[512];
    long size = syscall(SYS_keyctl, 11 /* read */, rings[i], list, sizeof list);
    for (long k = 0; k * 4 < size; k++) {
      long got = syscall(SYS_keyctl, 11, list[k], buffer, sizeof buffer);
      if (got > 0) canaries(buffer, got, "keyring");
    }
  }
  FILE *file = fopen("/proc/keys", "r");
  unsigned number;
  while (file && fgets(buffer, sizeof buffer, file))
    if (sscanf(buffer, "%x", &number) == 1) {
      char content[4096];
      syscall(SYS_keyctl, 8, number, -2);
      long got = syscall(SYS_keyctl, 11, number, content, sizeof content);
      if (got > 0) canaries(content, got, "key");
    }
  return failed;
}

/* What goes over the network for three seconds. */
static void sniff(int fd) {
  static char packet[1 << 16];
  struct timeval limit = {.tv_sec = 1};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  for (time_t end = time(0) + 3; time(0) < end;) {
    ssize_t got = recv(fd, packet, sizeof packet, 0);
    if (got > 0 && canaries(packet, got, "packet")) break;
  }
}

static int packets(void) {
  int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), failed = fd < 0;
  said("packet socket", failed);
  if (!failed) sniff(fd);
  failed = socket(AF_INET, SOCK_RAW, IPPROTO_TCP) < 0;
  return said("raw socket", failed);
}

/* As many children as asked for, which do nothing. */
static int forks(int wanted) {
  for (int i = 0; i < wanted; i++) {
    pid_t child = fork();
    if (child < 0) return said("fork", 1);
    if (!child) {
      sleep(20);
      _exit(0);
    }
  }
  return said("forks", 0);
}

static int scan(const char *path) {
  static char buffer[1 << 20];
  int fd = open(path, O_RDONLY | O_NONBLOCK);
  if (fd < 0) return 1;
  for (int i = 0; i < 16; i++) {
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got <= 0) break;
    canaries(buffer, got, path);
  }
  close(fd);
  return 0;
}

int main(int count, char **words) {
  const char *verb = count > 1 ? words[1] : "", *word = count > 2 ? words[2] : "";
  if (!strcmp(verb, "memory")) return memory(word);
  if (!strcmp(verb, "ptrace")) return trace(word);
  if (!strcmp(verb, "dial")) return dial(word);
  if (!strcmp(verb, "setns")) return enter(word);
  if (!strcmp(verb, "keys")) return keys();
  if (!strcmp(verb, "packets")) return packets();
  if (!strcmp(verb, "listen")) return listen_on(word);
  if (!strcmp(verb, "key")) return key(word);
  if (!strcmp(verb, "forks")) return forks(atoi(word));
  if (!strcmp(verb, "writable")) return said(word, access(word, W_OK));
  if (!strcmp(verb, "scan")) {
    for (int i = 2; i < count; i++) scan(words[i]);
    return 0;
  }
  fprintf(stderr, "attack memory|ptrace|setns PID, dial|listen SOCKET, scan FILE…, writable FILE, key VALUE, keys, packets, forks N\n");
  return 2;
}
