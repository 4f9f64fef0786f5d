"""The Wyoming service, as its own client library uses it."""

import asyncio
import json
import random
import shutil
import socket
import subprocess
import time

import numpy
import pytest
from conftest import BELLIS, PATIENCE, ROOT
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.wake import Detect, Detection

# Ends of the keyword in the recording, ms.
ENDS = [1660, 18400, 40140]
# The chunk length, 320 ms, decides on which frame a peak is the highest.
TOLERANCE = 120


@pytest.fixture
def service(bellis, keywords):
    daemon = bellis("--wyoming", "tcp://127.0.0.1:0", "--keywords", keywords, "--metrics", "off")
    daemon.port = int(daemon.logged(r"wyoming: tcp://127\.0\.0\.1:(\d+)")[1])
    return daemon


def client(service):
    return AsyncTcpClient("127.0.0.1", service.port, connect_timeout=PATIENCE, read_timeout=PATIENCE)


async def info_of(service):
    async with client(service) as peer:
        await peer.write_event(Describe().event())
        return Info.from_event(await peer.read_event())


def encoded(samples, width):
    """int16 samples as PCM of `width` bytes."""
    match width:
        case 1:
            return (samples >> 8).astype("i1").tobytes()
        case 2:
            return samples.astype("<i2").tobytes()
        case 3:
            return (samples.astype("<i4") << 16).view("u1").reshape(-1, 4)[:, 1:].tobytes()
        case 4:
            return (samples.astype("<i4") << 16).tobytes()


async def send(peer, samples, rate=16000, width=2, channels=1, chunk=1024, start=0):
    """Sends int16 samples `[frames]`, the same in every channel."""
    await peer.write_event(AudioStart(rate, width, channels, timestamp=start).event())
    for first in range(0, len(samples), chunk):
        part = numpy.repeat(samples[first : first + chunk], channels)
        stamp = start + first * 1000 // rate
        await peer.write_event(AudioChunk(rate, width, channels, encoded(part, width), stamp).event())
    await peer.write_event(AudioStop(timestamp=start + len(samples) * 1000 // rate).event())


async def answers(peer, samples, names=None, **options):
    """Everything that is answered to a recording: up to the answer to a ping behind it."""

    async def ask():
        await peer.write_event(Detect(names=names).event())
        await send(peer, samples, **options)
        await peer.write_event(Ping(text="end").event())

    async def listen():
        received = []
        while event := await peer.read_event():
            if Pong.is_type(event.type):
                assert event.data["text"] == "end"
                return received
            received.append(event)
        raise AssertionError(f"the connection was closed after {received}")

    _, received = await asyncio.gather(ask(), listen())
    return received


def detections(events):
    return [Detection.from_event(event) for event in events if Detection.is_type(event.type)]


def test_describe_lists_the_keywords_of_today(service, keywords):
    info = asyncio.run(info_of(service))
    assert [info.asr, info.tts, info.handle, info.intent, info.mic, info.snd] == [[]] * 6
    [program] = info.wake
    [model] = program.models
    assert program.installed and model.installed
    assert (model.name, model.phrase) == ("several", "several")
    assert isinstance(model.languages, list)

    source = keywords / "several.keyword.toml"
    (keywords / "hey_bellis.keyword.toml").write_text(source.read_text().replace('"several"', '"hey_bellis"', 1))
    (keywords / "broken.keyword.toml").write_text("format = 7\nname = ")
    began = time.monotonic()
    models = asyncio.run(info_of(service)).wake[0].models
    print(f"describe: {(time.monotonic() - began) * 1e3:.1f} ms with two new keyword files")
    assert [(model.name, model.phrase) for model in models] == [("hey_bellis", "hey bellis"), ("several", "several")]
    service.logged("broken.keyword.toml")

    shutil.rmtree(keywords)
    assert asyncio.run(info_of(service)).wake[0].models == []


def test_keywords_are_detected_where_they_are(service, long_recording):
    async def talk():
        async with client(service) as peer:
            return await answers(peer, long_recording, names=["several"], start=5000)

    found = detections(asyncio.run(talk()))
    assert [one.name for one in found] == ["several"] * 3
    for one, end in zip(found, ENDS):
        assert abs(one.timestamp - (5000 + end)) <= TOLERANCE, found


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(16000, 1, 1), (16000, 4, 2), (48000, 3, 2), (44100, 2, 1), (8000, 2, 6), (32000, 2, 1)]
)
def test_any_rate_width_and_channel_count(service, long_recording, rate, width, channels):
    seconds = long_recording[: 20 * 16000]
    at = numpy.arange(len(seconds) * rate // 16000) * (16000 / rate)
    if rate < 16000:
        # Without aliases of the upper half of the spectrum.
        spectrum = numpy.fft.rfft(seconds)
        spectrum[len(spectrum) * rate // 16000 :] = 0
        seconds = numpy.fft.irfft(spectrum, len(seconds))
    samples = numpy.interp(at, numpy.arange(len(seconds)), seconds).clip(-32768, 32767).astype("<i2")

    async def talk():
        async with client(service) as peer:
            return await answers(peer, samples, rate=rate, width=width, channels=channels, chunk=rate // 20)

    events = asyncio.run(talk())
    if rate == 8000:
        # Half of the band is missing: the word may score too low. What is detected is the word, and nothing is refused.
        found = detections(events)
        assert [event.type for event in events] == (["detection"] * len(found) or ["not-detected"])
        assert all(min(abs(one.timestamp - end) for end in ENDS) <= TOLERANCE for one in found), found
    else:
        found = detections(events)
        assert len(found) == 2, events
        for one, end in zip(found, ENDS):
            assert abs(one.timestamp - end) <= TOLERANCE, found


def test_names_are_answered_as_requested_and_unknown_ones_reported(service, long_recording):
    start = long_recording[: 3 * 16000]

    async def talk(names):
        async with client(service) as peer:
            return await answers(peer, start, names=names)

    assert [one.name for one in detections(asyncio.run(talk(["Several"])))] == ["Several"]
    assert [one.name for one in detections(asyncio.run(talk(None)))] == ["several"]
    assert [one.name for one in detections(asyncio.run(talk([])))] == ["several"]
    unknown = asyncio.run(talk(["nothing"]))
    assert [event.type for event in unknown] == ["error", "not-detected"]
    assert "nothing" in unknown[0].data["text"]


def test_a_stream_without_the_keyword_ends_not_detected_and_the_next_one_is_new(service, long_recording):
    quiet = long_recording[5 * 16000 : 12 * 16000]

    async def talk():
        async with client(service) as peer:
            first = await answers(peer, quiet)
            second = await answers(peer, long_recording[: 3 * 16000])
            # A satellite may start anew without the end of the stream before.
            await peer.write_event(AudioStart(16000, 2, 1).event())
            await peer.write_event(AudioChunk(16000, 2, 1, quiet[:16000].tobytes()).event())
            third = await answers(peer, long_recording[: 3 * 16000])
            return first, second, third

    first, second, third = asyncio.run(talk())
    assert [event.type for event in first] == ["not-detected"]
    assert [event.type for event in second] == ["detection"]
    assert [event.type for event in third] == ["detection"]


def test_a_new_stream_does_not_lose_the_keyword_at_the_end_of_the_one_before(service, long_recording):
    quiet = long_recording[5 * 16000 : 8 * 16000]

    async def talk():
        async with client(service) as peer:
            await peer.write_event(AudioStart(16000, 2, 1).event())
            await peer.write_event(AudioChunk(16000, 2, 1, long_recording[: ENDS[0] * 16 + 800].tobytes()).event())
            return await answers(peer, quiet)

    assert [event.type for event in asyncio.run(talk())] == ["detection", "not-detected"]


def test_audio_without_a_start_and_other_messages_do_no_harm(service, long_recording):
    async def talk():
        async with client(service) as peer:
            await peer.write_event(Event("select-program", {"name": "bellis"}))
            await peer.write_event(Event("something-new", {"a": [1, {}]}, b"payload"))
            await peer.write_event(AudioStop().event())
            await peer.write_event(AudioChunk(16000, 2, 1, long_recording[: 2 * 16000].tobytes(), 700).event())
            await peer.write_event(AudioStop().event())
            return Detection.from_event(await peer.read_event())

    found = asyncio.run(talk())
    assert found.name == "several" and abs(found.timestamp - (700 + ENDS[0])) <= TOLERANCE


def test_each_of_many_connections_gets_its_own_detection(service, long_recording):
    start = long_recording[: 3 * 16000]

    async def talk():
        async with client(service) as peer:
            return detections(await answers(peer, start))

    async def all_of_them():
        return await asyncio.gather(*(talk() for _ in range(8)))

    assert len(asyncio.run(all_of_them())[0]) == 1
    before = service.memory()
    results = asyncio.run(all_of_them())
    assert [len(found) for found in results] == [1] * 8
    print(f"memory: {before / 2**20:.1f} MiB before and {service.memory() / 2**20:.1f} MiB after 8 connections")


def test_describe_is_answered_while_other_connections_compute(service, long_recording):
    enough = asyncio.Event()

    counts = []

    async def busy():
        while not enough.is_set():
            async with client(service) as peer:
                counts.append(len(detections(await answers(peer, long_recording))))

    async def both():
        tasks = [asyncio.create_task(busy()) for _ in range(3)]
        while not counts:
            await asyncio.sleep(0.02)
        times, immediate = [], 0
        for _ in range(20):
            await asyncio.sleep(0.02)
            before, began = len(counts), time.monotonic()
            assert len((await info_of(service)).wake) == 1
            times.append(time.monotonic() - began)
            immediate += len(counts) == before
        enough.set()
        print(f"describe beside three streams: median {numpy.median(times) * 1e3:.1f} ms, worst {max(times) * 1e3:.1f} ms")
        await asyncio.gather(*tasks)
        assert immediate, "every answer waited for the end of a stream"

    asyncio.run(both())
    assert len(counts) >= 3 and set(counts) == {3}


def test_connections_beyond_the_limit_are_refused_with_the_reason(bellis, keywords):
    arguments = ["--wyoming", "tcp://127.0.0.1:0", "--wyoming-connections", "2", "--keywords", keywords, "--metrics", "off"]
    service = bellis(*arguments)
    service.port = int(service.logged(r"wyoming: tcp://127\.0\.0\.1:(\d+)")[1])

    async def talk():
        async with client(service) as first, client(service) as second:
            for peer in (first, second):
                await peer.write_event(Ping().event())
                assert Pong.is_type((await peer.read_event()).type)
            async with client(service) as third:
                refused = await third.read_event()
                assert (refused.type, refused.data["code"]) == ("error", "busy")
                assert await third.read_event() is None
        # There is a place as soon as one has left.
        async with client(service) as peer:
            await peer.write_event(Ping().event())
            return (await peer.read_event()).type

    assert asyncio.run(talk()) == "pong"


def malformed(random):
    """One message that is not Wyoming, or not acceptable."""
    audio = {"rate": 16000, "width": 2, "channels": 1}
    numbers = [0, -1, 1, 3, 5, 1 << 31, 1 << 63, 1 << 70, 0.5, None, "2", [], {}, True]

    def message(kind, data, payload=b"", **header):
        block = json.dumps(data).encode()
        line = {"type": kind, "data_length": len(block), "payload_length": len(payload)} | header
        return json.dumps(line).encode() + b"\n" + block + payload

    match random.randrange(9):
        case 0:
            return random.randbytes(random.randrange(1, 400)) + b"\n"
        case 1:
            return message("audio-chunk", audio | {random.choice(list(audio)): random.choice(numbers)}, random.randbytes(64))
        case 2:
            return message("audio-start", {key: random.choice(numbers) for key in audio})
        case 3:
            return message("audio-chunk", audio, random.randbytes(random.randrange(200)), data_length=random.choice(numbers))
        case 4:
            return message("audio-chunk", audio, b"x" * 9, payload_length=random.choice(numbers))
        case 5:
            return message("detect", {"names": random.choice([3, "a", [1], [None], {}, ["x"] * 300])})
        case 6:
            whole = bytearray(message("audio-chunk", audio, random.randbytes(64)))
            whole[random.randrange(len(whole))] = random.randrange(256)
            return bytes(whole)
        case 7:
            return message("audio-chunk", audio, random.randbytes(64))[: random.randrange(1, 100)]
        case _:
            return b"[" * random.randrange(1, 3000) + b"\n"


def test_ten_thousand_malformed_messages_break_nothing(service, long_recording):
    generator = random.Random(27)
    errors = 0
    for _ in range(10_000):
        with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as peer:
            peer.settimeout(PATIENCE)
            try:
                peer.sendall(malformed(generator))
                peer.shutdown(socket.SHUT_WR)
                answer = b""
                while part := peer.recv(65536):
                    answer += part
                errors += b'"error"' in answer
            except ConnectionError:
                # Closed while something was still unread.
                errors += 1
    assert errors > 5_000

    async def talk():
        async with client(service) as peer:
            return detections(await answers(peer, long_recording[: 3 * 16000]))

    assert len(asyncio.run(talk())) == 1
    assert service.threads() < 32


def test_endless_headers_and_oversized_payloads_are_cut_off(service):
    for flood in [b"x" * (1 << 20), b'{"type":"audio-chunk","payload_length":1073741824}\n' + b"x" * (1 << 20)]:
        with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as peer:
            peer.settimeout(PATIENCE)
            answer = b""
            try:
                peer.sendall(flood)
                while part := peer.recv(65536):
                    answer += part
            except ConnectionError:
                pass
    service.logged("longer than 65536 bytes")
    service.logged("1073741824 bytes of payload")


def test_a_peer_that_stops_within_a_message_is_disconnected(service):
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as peer:
        peer.settimeout(PATIENCE)
        peer.sendall(b'{"type":"audio-chunk","payload_length":100}\n')
        assert b"did not arrive in time" in peer.recv(65536)
        assert peer.recv(1) == b""


def test_vanished_peers_leave_nothing_behind(service, long_recording):
    asyncio.run(info_of(service))
    before = service.threads()
    for _ in range(30):
        peer = socket.create_connection(("127.0.0.1", service.port), PATIENCE)
        peer.sendall(b'{"type":"audio-chunk","data":{"rate":16000,"width":2,"channels":1},"payload_length":32000}\n')
        peer.sendall(long_recording[:9000].tobytes())
        # A reset in place of an orderly end.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        time.sleep(0.01)
    until = time.monotonic() + PATIENCE
    while service.threads() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert service.threads() <= before
    assert len(asyncio.run(info_of(service)).wake) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--wyoming", "10400"], "must be tcp://ADDRESS:PORT"),
        (["--wyoming", "tcp://192.0.2.1:10400"], "cannot offer Wyoming on tcp://192.0.2.1:10400"),
        (["--wyoming", "tcp://127.0.0.1:0", "--wyoming-connections", "0"], "must be between 1 and 1000"),
    ],
)
def test_a_wrong_setting_stops_the_daemon_with_the_reason(keywords, arguments, reason):
    command = [BELLIS, "serve", *arguments, "--keywords", keywords, "--metrics", "off"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0 and reason in ended.stderr, ended.stderr


def test_an_open_address_is_warned_about(bellis, keywords):
    service = bellis("--wyoming", "tcp://0.0.0.0:0", "--keywords", keywords, "--metrics", "off")
    service.logged("without authentication or encryption")
