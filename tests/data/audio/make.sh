#!/bin/sh
# Creates the small audio files of tests/audio_files.rs and tests/audio_damage.rs from the bundled recording. Requires ffmpeg.
set -eu
cd "$(dirname "$0")"
ffmpeg -v error -y -ss 1 -t 0.6 -i ../../../models/sample.wav -c:a pcm_s16le -bitexact speech.wav
ffmpeg -v error -y -i speech.wav -bitexact speech.flac
ffmpeg -v error -y -i speech.wav -c:a libvorbis -q:a 6 -bitexact speech.ogg
ffmpeg -v error -y -i speech.wav -c:a libmp3lame -b:a 64k -bitexact speech.mp3
# Short pages, so that one can be damaged; Opus like voice messages; an unsupported codec.
ffmpeg -v error -y -i speech.wav -c:a libvorbis -q:a 4 -page_duration 100000 -bitexact pages.ogg
ffmpeg -v error -y -i speech.wav -c:a libopus -b:a 24k -application voip -page_duration 100000 -bitexact speech.opus
ffmpeg -v error -y -i speech.wav -c:a libopus -b:a 96k -ac 2 -application audio -bitexact stereo.opus
ffmpeg -v error -y -i speech.wav -c:a flac -f ogg -bitexact flac.ogg
ffmpeg -v error -y -i speech.wav -frame_size 1024 -bitexact frames.flac
ffmpeg -v error -y -i speech.wav -c:a aac -b:a 32k -bitexact speech.m4a
ffmpeg -v error -y -i speech.wav -c:a adpcm_ima_wav -bitexact adpcm.wav
ffmpeg -v error -y -i speech.wav -bitexact speech.aiff
# References for the Opus files, decoded by libopus.
ffmpeg -v error -y -c:a libopus -i speech.opus -ar 48000 -c:a pcm_s16le -bitexact opus.wav
ffmpeg -v error -y -c:a libopus -i stereo.opus -ar 48000 -c:a pcm_s16le -bitexact stereo-opus.wav
