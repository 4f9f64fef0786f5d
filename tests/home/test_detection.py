"""What a keyword at the daemon's own input starts: a program, and Linux Voice Assistant's pipeline."""

import asyncio
import json
import shlex
import subprocess
import sys
import time

import pytest
import websockets
from conftest import BELLIS, PATIENCE, ROOT


def configuration(folder, keywords, text):
    path = folder / "bellis.toml"
    path.write_text(f'input = "-"\nmetrics = "off"\nkeywords = "{keywords}"\n{text}\n')
    return path


def appears(path, lines):
    """Waits for a file of so many lines, and returns them."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if path.exists() and len(found := path.read_text().splitlines()) >= lines:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{path} has no {lines} lines")


def test_a_program_runs_for_each_detection(bellis, tmp_path, keywords, long_recording):
    out = tmp_path / "detections"
    script = (
        "import os, sys; "
        "open(sys.argv[1], 'a').write(' '.join(os.environ[f'BELLIS_{k}'] for k in ('KEYWORD', 'SCORE', 'START', 'END')) + '\\n')"
    )
    command = json.dumps([sys.executable, "-c", script, str(out)])
    daemon = bellis("--config", configuration(tmp_path, keywords, f"on-detection = {command}"), feed=True)
    daemon.hear(long_recording[: 20 * 16000])
    for line, end in zip(appears(out, 2), [1.66, 18.4]):
        keyword, score, start, stop = shlex.split(line)
        assert keyword == "several" and 0.3 <= float(score) <= 1
        assert float(start) < float(stop) and abs(float(stop) - end) < 0.15


def test_a_program_that_hangs_is_killed_and_delays_nothing(bellis, tmp_path, keywords, long_recording):
    text = 'on-detection = ["/bin/sleep", "1000"]\non-detection-limit = 0.3'
    daemon = bellis("--config", configuration(tmp_path, keywords, text), feed=True)
    daemon.hear(long_recording[: 20 * 16000])
    daemon.logged("/bin/sleep was killed: it ran for more than 0.3 s")
    daemon.logged("keyword `several` detected", 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('on-detection = [""]', "on-detection needs a program"),
        ('on-detection = ["true"]\non-detection-limit = 0', "on-detection-limit must be between"),
        ('voice-assistant = "localhost"', "voice-assistant must be ws://"),
    ],
)
def test_a_wrong_setting_stops_the_daemon_with_the_reason(tmp_path, keywords, text, reason):
    command = [BELLIS, "serve", "--config", configuration(tmp_path, keywords, text)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert ended.returncode != 0 and reason in ended.stderr, ended.stderr


def test_services_of_the_own_input_need_one(tmp_path, keywords):
    path = configuration(tmp_path, keywords, 'on-detection = ["true"]')
    path.write_text(path.read_text().replace('input = "-"', 'input = "none"'))
    command = [BELLIS, "serve", "--config", path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0 and "need an input" in ended.stderr, ended.stderr


class Assistant:
    """The peripheral API of Linux Voice Assistant, as its docs/peripheral_api.md describes it."""

    def __init__(self):
        self.commands = asyncio.Queue()
        self.peers = set()
        self.closed = asyncio.Queue()

    async def serve(self, peer):
        self.peers.add(peer)
        snapshot = {"muted": False, "volume": 0.8, "ha_connected": True, "button_controls_disabled": False}
        await self.say(peer, "snapshot", snapshot | {"last_stt_text": None, "last_tts_text": None})
        try:
            async for message in peer:
                await self.commands.put(json.loads(message))
        finally:
            self.peers.discard(peer)
            await self.closed.put(peer.close_code)

    @staticmethod
    async def say(peer, event, data=None):
        await peer.send(json.dumps({"event": event} | ({"data": data} if data else {})))

    async def all(self, event, data=None):
        for peer in list(self.peers):
            await self.say(peer, event, data)
        # What was sent is handled in order: a pong comes after it.
        for peer in list(self.peers):
            await (await peer.ping())

    async def commanded(self):
        return await asyncio.wait_for(self.commands.get(), PATIENCE)


def test_a_keyword_starts_the_assistant_and_is_ignored_while_it_speaks(bellis, tmp_path, keywords, long_recording):
    start = long_recording[: 4 * 16000]

    async def talk():
        assistant = Assistant()
        async with websockets.serve(assistant.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            text = f'voice-assistant = "ws://127.0.0.1:{port}"'
            daemon = bellis("--config", configuration(tmp_path, keywords, text), feed=True)
            await asyncio.to_thread(daemon.logged, "voice-assistant: connected")

            async def hear(count):
                await asyncio.to_thread(daemon.hear, start)
                await asyncio.to_thread(daemon.logged, "keyword `several` detected", count)

            await hear(1)
            assert await assistant.commanded() == {"command": "start_listening"}
            for event in ["wake_word_detected", "listening", "thinking", "tts_speaking"]:
                await assistant.all(event)
            await hear(2)
            await asyncio.to_thread(daemon.logged, "ignored: the voice assistant is muted or active")
            await assistant.all("tts_finished")
            await assistant.all("idle")
            await assistant.all("muted", {"muted": True})
            await hear(3)
            await asyncio.to_thread(daemon.logged, "ignored: the voice assistant is muted or active", 2)
            await assistant.all("muted", {"muted": False})
            # Nothing that a peer sends stops the daemon.
            for peer in list(assistant.peers):
                for message in ["", "[]", "{}", '{"event":1}', '{"event":"muted","data":[]}', "x" * 1000]:
                    await peer.send(message)
            await hear(4)
            assert await assistant.commanded() == {"command": "start_listening"}
            assert assistant.commands.empty()
            # One that vanishes is connected to again.
            for peer in list(assistant.peers):
                peer.transport.abort()
            await asyncio.to_thread(daemon.logged, "voice-assistant: connected", 2)
            await hear(5)
            assert await assistant.commanded() == {"command": "start_listening"}
            # The daemon says goodbye: without, the code is that of a lost connection, as for the one that vanished.
            assert await asyncio.wait_for(assistant.closed.get(), PATIENCE) == 1006
            assert await asyncio.to_thread(daemon.stop) == 0
            assert await asyncio.wait_for(assistant.closed.get(), PATIENCE) == 1005

    asyncio.run(talk())


def test_an_oversized_message_ends_the_connection(bellis, tmp_path, keywords):
    async def talk():
        assistant = Assistant()
        async with websockets.serve(assistant.serve, "127.0.0.1", 0) as server:
            text = f'voice-assistant = "ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"'
            daemon = bellis("--config", configuration(tmp_path, keywords, text), feed=True)
            await asyncio.to_thread(daemon.logged, "voice-assistant: connected")
            [peer] = assistant.peers
            await peer.send("x" * 100_000)
            await asyncio.to_thread(daemon.logged, "retrying until it works")
            await asyncio.to_thread(daemon.logged, "voice-assistant: connected", 2)

    asyncio.run(talk())
