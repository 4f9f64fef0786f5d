#!/bin/sh
# Makes the small sound files of tests/audio_files.rs from the bundled recording. Needs ffmpeg.
set -eu
cd "$(dirname "$0")"
ffmpeg -v error -y -ss 1 -t 0.6 -i ../../../models/sample.wav -c:a pcm_s16le -bitexact speech.wav
ffmpeg -v error -y -i speech.wav -bitexact speech.flac
ffmpeg -v error -y -i speech.wav -c:a libvorbis -q:a 6 -bitexact speech.ogg
ffmpeg -v error -y -i speech.wav -c:a libmp3lame -b:a 64k -bitexact speech.mp3
