/* Prints the keywords in raw 16-bit mono audio on standard input: spot PACK FOLDER RATE < audio.raw */

#include <stdio.h>
#include <stdlib.h>

#include "bellis.h"

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, bellis_error());
    return EXIT_FAILURE;
}

/* Prints what was found so far. */
static int print(BellisSpotter *spotter) {
    BellisKeywordEvent event;
    int found;
    while ((found = bellis_spotter_next(spotter, &event)) == 1) {
        printf("%s %.4f %.4f %.4f\n", event.keyword, event.start, event.end, event.score);
        fflush(stdout);
    }
    return found;
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: %s PACK FOLDER RATE < audio.raw\n", arguments[0]);
        return EXIT_FAILURE;
    }
    BellisEncoder *encoder = bellis_encoder_new(arguments[1], NULL);
    if (!encoder) return fail("encoder");
    BellisSpotter *spotter = bellis_spotter_new(encoder, arguments[2], (uint32_t)atoi(arguments[3]), NULL);
    /* The spotter keeps what it needs. */
    bellis_encoder_free(encoder);
    if (!spotter) return fail("spotter");
    const char *keyword;
    for (size_t index = 0; (keyword = bellis_spotter_keyword(spotter, index)); index++)
        fprintf(stderr, "searching for %s\n", keyword);
    int16_t samples[1600];
    size_t read;
    while ((read = fread(samples, sizeof *samples, 1600, stdin)) > 0)
        if (bellis_spotter_push_i16(spotter, samples, read) || print(spotter) < 0) return fail("spotter");
    if (bellis_spotter_finish(spotter) || print(spotter) < 0) return fail("spotter");
    bellis_spotter_free(spotter);
    return EXIT_SUCCESS;
}
