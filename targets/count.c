/* A plugin for qemu-user that counts executed AArch64 instructions by kind and prints them when the program ends.
 * targets/count compiles and uses it. Counts are exactly repeatable if the program is deterministic, since no clock is read.
 *
 * With `profile=FILE`, it also writes how often each block of instructions was executed, the kinds of its
 * instructions, and the memory map, which tells the files that they are from.
 *
 * The first lines replace qemu-plugin.h (interface version 1, qemu 4.2 to 8), which distributions do not contain. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct block *, void (*)(unsigned, void *), int flags, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct block *);
uint64_t qemu_plugin_tb_vaddr(const struct block *);
struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
const void *qemu_plugin_insn_data(const struct instruction *);
void qemu_plugin_outs(const char *);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum kind { SCALAR, LOAD, STORE, VECTOR_LOAD, VECTOR_STORE, VECTOR, MULTIPLY_ADD, KINDS };
/* Additional counters: vector registers loaded and stored, loads of one value into all lanes (which also use a vector pipe), and
* sums of 8-bit products (dot products, and pairwise sums of widened ones). */
enum extra { LOADED = KINDS, STORED, TO_ALL_LANES, BYTES, COUNTERS };
static const char *const NAMES[] = {
  "scalar", "load", "store", "vector_load", "vector_store", "vector", "multiply_add", "loaded", "stored", "to_all_lanes", "bytes",
};

/* Counters per thread, because concurrent additions to a shared counter could be lost. */
#define THREADS 64
static struct { uint64_t of[COUNTERS]; char own_line[40]; } counts[THREADS];

static int is_dot(uint32_t code) { return (code & 0x9fe0fc00) == 0x0e809400 || (code & 0x9fc0f400) == 0x0f80e000; } /* sdot, udot */

static int is_pairwise_sum(uint32_t code) { return (code & 0xbffffc00) == 0x0e606800; } /* sadalp from 16 to 32 bits */

/* Number of registers moved by a vector load or store. */
static int registers(uint32_t code) {
  if ((code >> 27 & 7) == 5) return 2;                /* ldp, stp */
  if ((code & 0xbf200000) != 0x0c000000) return 1;    /* all except ld1 to ld4 of whole registers */
  switch (code >> 12 & 15) {
    case 7: return 1;
    case 8: case 10: return 2;
    case 4: case 6: return 3;
    default: return 4;
  }
}

/* Arm ARM, C4.1: bits 28:25 select the group; bit 26 that of SIMD and floating point. */
static enum kind kind_of(uint32_t code) {
  int vector = code >> 26 & 1;
  if ((code >> 25 & 5) == 4) {
    int literal = (code >> 27 & 7) == 3 && !(code >> 24 & 1);
    int load = literal || (code >> 22 & 1) || (!vector && (code >> 23 & 1) && (code >> 27 & 7) == 7);
    return load ? (vector ? VECTOR_LOAD : LOAD) : (vector ? VECTOR_STORE : STORE);
  }
  if ((code >> 25 & 7) == 7) {
    int by_vector = (code & 0xbfa0fc00) == 0x0e20cc00;                                 /* fmla v, v, v */
    int by_element = (code & 0xbf80f400) == 0x0f801000;                                /* fmla v, v, v[i] */
    int widening = (code & 0x9f20fc00) == 0x0e208000 || (code & 0x9f00f400) == 0x0f002000; /* smlal, umlal */
    return by_vector || by_element || is_dot(code) || widening ? MULTIPLY_ADD : VECTOR;
  }
  return SCALAR;
}

static void add(uint16_t *to, uint32_t code) {
  enum kind kind = kind_of(code);
  to[kind]++;
  if (kind == VECTOR_LOAD) to[LOADED] += registers(code);
  if (kind == VECTOR_STORE) to[STORED] += registers(code);
  if (kind == VECTOR_LOAD && (code & 0xbf60f000) == 0x0d40c000) to[TO_ALL_LANES]++; /* ld1r */
  if ((kind == MULTIPLY_ADD && is_dot(code)) || is_pairwise_sum(code)) to[BYTES]++;
}

/* A translated block: a run of instructions that is always executed whole. Never freed, as the translation that it belongs to. */
struct translation {
  uint16_t added[COUNTERS];
  uint64_t address, times;
  char *kinds; /* of each instruction, as a letter from A on */
  struct translation *next;
};
static struct translation *translations;
static const char *profile;

static void executed(unsigned thread, void *of_block) {
  struct translation *block = of_block;
  for (int counter = 0; counter < COUNTERS; counter++) counts[thread % THREADS].of[counter] += block->added[counter];
  if (profile) __atomic_fetch_add(&block->times, 1, __ATOMIC_RELAXED);
}

static void translated(plugin_id id, struct block *block) {
  (void)id;
  struct translation *translation = calloc(1, sizeof *translation);
  size_t instructions = qemu_plugin_tb_n_insns(block);
  char *kinds = calloc(1, instructions + 1);
  if (!translation || !kinds) abort();
  translation->address = qemu_plugin_tb_vaddr(block);
  translation->kinds = kinds;
  for (size_t i = 0; i < instructions; i++) {
    uint32_t code = *(const uint32_t *)qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i));
    kinds[i] = 'A' + kind_of(code);
    add(translation->added, code);
  }
  translation->next = translations;
  while (!__atomic_compare_exchange_n(&translations, &translation->next, translation, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {}
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, translation);
}

/* The memory map is that of the emulator, whose addresses are those of the program. */
static void write_profile(void) {
  FILE *to = fopen(profile, "w"), *maps = fopen("/proc/self/maps", "r");
  char line[4096];
  if (!to || !maps) abort();
  while (fgets(line, sizeof line, maps)) fputs(line, to);
  fputs("\n", to);
  for (struct translation *block = translations; block; block = block->next)
    fprintf(to, "%llx %llu %s\n", (unsigned long long)block->address, (unsigned long long)block->times, block->kinds);
  fclose(maps);
  fclose(to);
}

static void at_exit(plugin_id id, void *none) {
  (void)id, (void)none;
  char line[64];
  qemu_plugin_outs("counted");
  for (int counter = 0; counter < COUNTERS; counter++) {
    uint64_t sum = 0;
    for (int thread = 0; thread < THREADS; thread++) sum += counts[thread].of[counter];
    snprintf(line, sizeof line, " %s=%llu", NAMES[counter], (unsigned long long)sum);
    qemu_plugin_outs(line);
  }
  qemu_plugin_outs("\n");
  if (profile) write_profile();
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; i++)
    if (!strncmp(argv[i], "profile=", 8)) profile = strdup(argv[i] + 8);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, at_exit, NULL);
  return 0;
}
