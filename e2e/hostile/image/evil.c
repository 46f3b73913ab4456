/* A shared object for LD_PRELOAD: whoever loads it leaves a file behind. */
#include <stdio.h>

__attribute__((constructor)) static void loaded(void) {
  FILE *file = fopen("/tmp/evil-preload", "w");
  if (file) fclose(file);
}
