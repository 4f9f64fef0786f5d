// An ALSA microphone whose audio comes from a FIFO: as fast as it is written, and unplugged when it is closed or removed.
//
//   gcc -O2 -Wall -fPIC -shared -DPIC microphone.c -o libasound_module_pcm_soak.so -lasound
//   pcm.soak { type soak fifo "/tmp/mic" }
//
// One channel of 32-bit floats at 16 kHz.

#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { RATE = 16000, FRAME = sizeof(float) };

typedef struct {
	snd_pcm_ioplug_t io;
	int fifo;
	// Frames that the application has read since the start.
	snd_pcm_uframes_t read;
} microphone;

static int unplugged(snd_pcm_ioplug_t *io)
{
	snd_pcm_ioplug_set_state(io, SND_PCM_STATE_DISCONNECTED);
	return -ENODEV;
}

static int start(snd_pcm_ioplug_t *io)
{
	(void)io;
	return 0;
}

static int prepare(snd_pcm_ioplug_t *io)
{
	((microphone *)io->private_data)->read = 0;
	return 0;
}

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io)
{
	microphone *self = io->private_data;
	int bytes = 0;
	if (ioctl(self->fifo, FIONREAD, &bytes) < 0)
		return unplugged(io);
	struct pollfd fd = { self->fifo, POLLIN, 0 };
	if (bytes < FRAME && poll(&fd, 1, 0) > 0 && fd.revents & POLLHUP)
		return unplugged(io);
	snd_pcm_uframes_t waiting = bytes / FRAME;
	if (waiting > io->buffer_size - 1)
		waiting = io->buffer_size - 1;
	return (self->read + waiting) % io->buffer_size;
}

static snd_pcm_sframes_t transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset,
				  snd_pcm_uframes_t size)
{
	microphone *self = io->private_data;
	char *out = (char *)areas->addr + (areas->first + areas->step * offset) / 8;
	ssize_t bytes = read(self->fifo, out, size * FRAME);
	if (bytes <= 0 || bytes % FRAME)
		return bytes < 0 && errno == EAGAIN ? -EAGAIN : unplugged(io);
	self->read += bytes / FRAME;
	return bytes / FRAME;
}

static int revents(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned int count, unsigned short *out)
{
	(void)count;
	*out = fds->revents & POLLIN;
	return fds->revents & POLLHUP && !*out ? unplugged(io) : 0;
}

static int close_fifo(snd_pcm_ioplug_t *io)
{
	microphone *self = io->private_data;
	close(self->fifo);
	free(self);
	return 0;
}

static const snd_pcm_ioplug_callback_t callbacks = {
	.start = start,
	.stop = start,
	.prepare = prepare,
	.pointer = pointer,
	.transfer = transfer,
	.poll_revents = revents,
	.close = close_fifo,
};

SND_PCM_PLUGIN_DEFINE_FUNC(soak)
{
	(void)root;
	const char *path = NULL;
	snd_config_iterator_t at, next;
	snd_config_for_each(at, next, conf) {
		snd_config_t *entry = snd_config_iterator_entry(at);
		const char *id;
		if (snd_config_get_id(entry, &id) == 0 && strcmp(id, "fifo") == 0)
			snd_config_get_string(entry, &path);
	}
	if (!path || stream != SND_PCM_STREAM_CAPTURE)
		return -EINVAL;
	int fifo = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fifo < 0)
		return -errno;
	microphone *self = calloc(1, sizeof *self);
	if (!self) {
		close(fifo);
		return -ENOMEM;
	}
	self->fifo = fifo;
	self->io.version = SND_PCM_IOPLUG_VERSION;
	self->io.name = "Soak test";
	self->io.callback = &callbacks;
	self->io.private_data = self;
	self->io.poll_fd = fifo;
	self->io.poll_events = POLLIN;
	int error = snd_pcm_ioplug_create(&self->io, name, stream, mode);
	if (error < 0) {
		close(fifo);
		free(self);
		return error;
	}
	static const unsigned int access[] = { SND_PCM_ACCESS_RW_INTERLEAVED };
	static const unsigned int format[] = { SND_PCM_FORMAT_FLOAT_LE };
	snd_pcm_ioplug_set_param_list(&self->io, SND_PCM_IOPLUG_HW_ACCESS, 1, access);
	snd_pcm_ioplug_set_param_list(&self->io, SND_PCM_IOPLUG_HW_FORMAT, 1, format);
	snd_pcm_ioplug_set_param_minmax(&self->io, SND_PCM_IOPLUG_HW_CHANNELS, 1, 1);
	snd_pcm_ioplug_set_param_minmax(&self->io, SND_PCM_IOPLUG_HW_RATE, RATE, RATE);
	snd_pcm_ioplug_set_param_minmax(&self->io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, 64 * FRAME, 4096 * FRAME);
	snd_pcm_ioplug_set_param_minmax(&self->io, SND_PCM_IOPLUG_HW_PERIODS, 2, 16);
	*pcmp = self->io.pcm;
	return 0;
}

SND_PCM_PLUGIN_SYMBOL(soak);
