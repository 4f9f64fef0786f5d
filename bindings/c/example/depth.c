/* Prints the exit layer and the phones of each chunk of raw 16-bit mono audio on standard input: depth PACK RATE [POLICY] < audio.raw */

#include <stdio.h>
#include <stdlib.h>

#include "bellis.h"

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, bellis_error());
    return EXIT_FAILURE;
}

/* Prints the chunks that are complete. */
static int print(BellisStream *stream) {
    BellisChunk chunk;
    int found;
    while ((found = bellis_stream_next(stream, &chunk)) == 1) {
        double sum = 0;
        for (size_t i = 0; i < (size_t)chunk.frames * chunk.dim; i++) sum += chunk.vectors[i];
        printf("%llu %.4f %u %u %.6g", (unsigned long long)chunk.index, chunk.start, chunk.layer, chunk.frames, sum);
        for (uint32_t i = 0; i < chunk.phone_count; i++) printf(" %s", chunk.phones[i].phone);
        printf("\n");
    }
    return found;
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: %s PACK RATE [POLICY] < audio.raw\n", arguments[0]);
        return EXIT_FAILURE;
    }
    BellisOptions options = {.version = BELLIS_API, .policy = count > 3 ? arguments[3] : NULL};
    BellisEncoder *encoder = bellis_encoder_new(arguments[1], &options);
    if (!encoder) return fail("encoder");
    BellisStream *stream = bellis_stream_new(encoder, (uint32_t)atoi(arguments[2]), BELLIS_PHONES);
    /* The stream keeps what it needs. */
    bellis_encoder_free(encoder);
    if (!stream) return fail("stream");
    int16_t samples[1600];
    size_t read;
    while ((read = fread(samples, sizeof *samples, 1600, stdin)) > 0)
        if (bellis_stream_push_i16(stream, samples, read) || print(stream) < 0) return fail("stream");
    if (bellis_stream_finish(stream) || print(stream) < 0) return fail("stream");
    bellis_stream_free(stream);
    return EXIT_SUCCESS;
}
