/* libnvidia-ml.so.1 as far as the worker asks it for processes, by nvml.h.

   STANDIN_PROCESSES is what it lists when it is asked first and later, as "FIRST;LATER": each a
   comma-separated list of PID or PID:NAME, where PID may be "self". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  unsigned int pid;
  unsigned long long usedGpuMemory;
  unsigned int gpuInstanceId;
  unsigned int computeInstanceId;
} nvmlProcessInfo_v2_t;

static int asked = 0;
static char named[16][64];
static unsigned int numbers[16];
static unsigned int count = 0;

int nvmlInit_v2(void) { return 0; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = (void *)uuid;
  return strncmp(uuid, "GPU-", 4) == 0 ? 0 : 2;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  snprintf(version, length, "580.95.05");
  return 0;
}

static void list(void) {
  char all[512];
  char *later, *word, *place;
  const char *given = getenv("STANDIN_PROCESSES");
  snprintf(all, sizeof all, "%s", given ? given : "");
  later = strchr(all, ';');
  if (later) *later++ = 0;
  count = 0;
  for (word = strtok_r(asked++ && later ? later : all, ",", &place); word && count < 16;
       word = strtok_r(NULL, ",", &place)) {
    char *name = strchr(word, ':');
    if (name) *name++ = 0;
    numbers[count] = strcmp(word, "self") ? (unsigned int)atoi(word) : (unsigned int)getpid();
    snprintf(named[count++], sizeof named[0], "%s", name ? name : "");
  }
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *room,
                                            nvmlProcessInfo_v2_t *infos) {
  unsigned int at;
  list();
  if (*room < count) return 7; /* NVML_ERROR_INSUFFICIENT_SIZE */
  *room = count;
  for (at = 0; at < count; at++) {
    infos[at].pid = numbers[at];
    infos[at].usedGpuMemory = 1ull << 40;
    infos[at].gpuInstanceId = infos[at].computeInstanceId = 0xFFFFFFFFu;
  }
  return 0;
}

int nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
  unsigned int at;
  for (at = 0; at < count; at++)
    if (numbers[at] == pid && *named[at]) {
      snprintf(name, length, "/usr/bin/%s", named[at]);
      return 0;
    }
  return 6; /* NVML_ERROR_NOT_FOUND */
}
