"""An installation of Home Assistant as the peer, used through its REST and WebSocket APIs. scripts/test-home-assistant runs it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict, deque
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import BELLIS, PATIENCE, ROOT
from test_mqtt import PASSWORD, USER, Broker, configuration, free_port
from websockets.sync.client import connect

KEYWORD, SPEECH = "event.test_kitchen_keyword", "binary_sensor.test_kitchen_speech"
DEPTH, LEVEL = "sensor.test_kitchen_exit_depth", "sensor.test_kitchen_level"
ENTITIES = [KEYWORD, SPEECH, DEPTH, LEVEL]


class HomeAssistant:
    """Home Assistant in a root folder, with a configuration of the test's own."""

    def __init__(self, root):
        self.root, self.port, self.token, self.process, self.socket = root, free_port(), None, None, None
        self.logs = ""
        self.folder = Path(tempfile.mkdtemp(dir=root / "tmp"))
        http = f'http:\n  server_host: "127.0.0.1"\n  server_port: {self.port}\n'
        (self.folder / "configuration.yaml").write_text(f"{http}logger:\n  default: warning\nassist_pipeline:\n")

    def start(self):
        self.states, self.sent = defaultdict(deque), 0
        folder = "/" + str(self.folder.relative_to(self.root))
        program = ["/opt/venv/bin/python", "-m", "homeassistant", "--skip-pip", "--config", folder]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(["chroot", self.root, *program], env=environment, stderr=subprocess.DEVNULL)
        self.waits(lambda: self.answers("/manifest.json"), "an answer")
        if self.token is None:
            self.onboard()
        self.waits(lambda: self.rest("/api/config")["state"] == "RUNNING", "the end of its start")
        self.socket = connect(f"ws://127.0.0.1:{self.port}/api/websocket", max_size=None)
        assert json.loads(self.socket.recv(PATIENCE))["type"] == "auth_required"
        self.socket.send(json.dumps({"type": "auth", "access_token": self.token}))
        assert json.loads(self.socket.recv(PATIENCE))["type"] == "auth_ok"
        self.ask("subscribe_events", event_type="state_changed")
        for state in self.ask("get_states"):
            self.states[state["entity_id"]].append(state)

    def stop(self):
        if self.socket:
            self.socket.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
            # Each start begins a new file.
            self.logs += self.log()

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "home-assistant.log").read_text()
        return ""

    def waits(self, holds, what):
        until = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < until:
            assert self.process.poll() is None, f"Home Assistant ended: {self.log()}"
            if holds():
                return
            time.sleep(0.2)
        raise AssertionError(f"Home Assistant: no {what}: {self.log()}")

    def answers(self, path):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE).close()
            return True
        except OSError:
            return False

    def rest(self, path, data=None, form=False):
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        body = None
        if data is not None:
            body = (urllib.parse.urlencode(data) if form else json.dumps(data)).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded" if form else "application/json"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()[:500]}; {self.log()}") from error

    def onboard(self):
        """The first user, and the other steps of a new installation, except the location: that adds services of other sites."""
        here = f"http://127.0.0.1:{self.port}/"
        user = {"client_id": here, "name": "Test", "username": "test", "password": "secret", "language": "en"}
        self.waits(lambda: self.answers("/api/onboarding"), "onboarding")
        code = self.rest("/api/onboarding/users", user)["auth_code"]
        grant = {"client_id": here, "code": code, "grant_type": "authorization_code"}
        self.token = self.rest("/auth/token", grant, form=True)["access_token"]
        self.rest("/api/onboarding/analytics", {})
        self.rest("/api/onboarding/integration", {"client_id": here, "redirect_uri": here})

    def add_integration(self, handler, **answers):
        """What **Add integration** does, with one form. Returns the name of the new entry."""
        flow = self.rest("/api/config/config_entries/flow", {"handler": handler})
        assert flow["type"] == "form" and set(answers) <= {field["name"] for field in flow["data_schema"]}, flow
        result = self.rest(f"/api/config/config_entries/flow/{flow['flow_id']}", answers)
        assert result["type"] == "create_entry", result
        return result["title"]

    def message(self, patience=PATIENCE):
        """The next message; keeps changes of states."""
        message = json.loads(self.socket.recv(patience))
        if message["type"] == "event" and message["event"].get("event_type") == "state_changed":
            data = message["event"]["data"]
            self.states[data["entity_id"]].append(data["new_state"])
        return message

    def send(self, kind, **fields):
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "type": kind} | fields))
        return self.sent

    def ask(self, kind, **fields):
        number = self.send(kind, **fields)
        while (message := self.message())["type"] != "result" or message["id"] != number:
            pass
        assert message["success"], (kind, message)
        return message["result"]

    def becomes(self, entity, holds):
        """Waits for a state of the entity, among those that no call has returned yet, and returns it."""
        seen, until = [], time.monotonic() + PATIENCE
        while time.monotonic() < until:
            while self.states[entity]:
                state = self.states[entity].popleft()
                # `None` is a removed entity.
                if state and (holds(state) if callable(holds) else state["state"] == holds):
                    return state
                seen.append(state and state["state"])
            with contextlib.suppress(TimeoutError):
                self.message()
        raise AssertionError(f"{entity}: {seen}; {self.log()}")


    def forgets(self):
        """Waits until no daemon is left from an earlier test, and forgets what was."""

        def left():
            states = self.ask("get_states")
            return [one for one in states if one["entity_id"] in ENTITIES and one["state"] != "unavailable"]

        self.waits(lambda: not left(), "end of the daemon")
        self.states.clear()


def has_value(state):
    return state["state"] not in ("unavailable", "unknown")


def fires(home, daemon, recording):
    """The attributes of the keyword event that the start of the recording makes."""
    since = datetime.now(UTC)
    daemon.hear(recording[: 4 * 16000])
    return home.becomes(KEYWORD, lambda state: has_value(state) and datetime.fromisoformat(state["state"]) > since)["attributes"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    broker = Broker(tmp_path_factory.mktemp("mosquitto"))
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def home(broker):
    home = HomeAssistant(Path(os.environ["HOME_ASSISTANT_ROOT"]))
    try:
        home.start()
        home.add_integration("mqtt", broker="127.0.0.1", port=broker.port, username=USER, password=PASSWORD)
        yield home
        home.stop()
        complaints = [line for line in home.logs.splitlines() if any(part in line.lower() for part in ["mqtt", "wyoming", "bellis"])]
        assert not complaints, complaints
    finally:
        home.stop()
        shutil.rmtree(home.folder, ignore_errors=True)


@pytest.fixture
def start(home, bellis, tmp_path, keywords, broker):
    """Starts the daemon."""
    path = configuration(tmp_path, keywords, broker)
    home.forgets()
    return lambda: bellis("--config", path, feed=True)


def test_the_device_appears_and_its_entities_follow_the_audio(home, start, long_recording):
    daemon = start()
    home.becomes(SPEECH, "off")
    home.becomes(KEYWORD, lambda state: state["attributes"]["event_types"] == ["several"])
    event = fires(home, daemon, long_recording)
    assert event["event_type"] == event["keyword"] == "several" and 0.3 == event["threshold"] <= event["score"] <= 1
    assert abs(event["end"] - 1.66) < 0.15
    home.becomes(SPEECH, "on")
    assert 0 < float(home.becomes(DEPTH, has_value)["state"]) <= 10
    level = home.becomes(LEVEL, has_value)
    assert -60 < float(level["state"]) < 0 and level["attributes"]["unit_of_measurement"] == "dBFS"
    daemon.hear(0 * long_recording[: 4 * 16000])
    home.becomes(SPEECH, "off")
    # One device with these entities, and no others.
    [device] = [device for device in home.ask("config/device_registry/list") if device["name"] == "Test kitchen"]
    assert device["manufacturer"] == "Bellis" and device["model"] == "daisy-tiny"
    registered = home.ask("config/entity_registry/list")
    assert {one["entity_id"] for one in registered if one["device_id"] == device["id"]} == set(ENTITIES)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_entities_are_unavailable_without_the_daemon(home, start, tmp_path, long_recording, end):
    command = [BELLIS, "serve", "--config", tmp_path / "bellis.toml"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(long_recording[: 4 * 16000].tobytes())
    process.stdin.flush()
    for entity in ENTITIES:
        home.becomes(entity, has_value)
    process.send_signal(end)
    process.wait(PATIENCE)
    for entity in ENTITIES:
        home.becomes(entity, "unavailable")
    daemon = start()
    assert fires(home, daemon, long_recording)["event_type"] == "several"
    for entity in ENTITIES[1:]:
        home.becomes(entity, has_value)


def test_a_new_keyword_fires(home, start, keywords, long_recording):
    daemon = start()
    home.becomes(KEYWORD, lambda state: state["attributes"].get("event_types") == ["several"])
    source = keywords / "several.keyword.toml"
    source.write_text(source.read_text().replace('"several"', '"other"', 1))
    source.rename(keywords / "other.keyword.toml")
    until = time.monotonic() + PATIENCE
    while not any(state["attributes"].get("event_types") == ["other"] for state in home.states[KEYWORD]):
        assert time.monotonic() < until, home.states[KEYWORD]
        # The folder is read as audio is processed.
        daemon.hear(0 * long_recording[:16000])
        with contextlib.suppress(TimeoutError):
            home.message(0.5)
    assert fires(home, daemon, long_recording)["event_type"] == "other"


def test_entities_return_after_a_restart_of_home_assistant(home, start, long_recording):
    daemon = start()
    fires(home, daemon, long_recording)
    home.becomes(DEPTH, has_value)
    home.stop()
    home.start()
    # Without further audio.
    for entity in ENTITIES:
        home.becomes(entity, has_value)
    assert fires(home, daemon, long_recording)["event_type"] == "several"


def test_wake_words_are_listed_and_detected(home, bellis, keywords, long_recording):
    service = bellis("--wyoming", "tcp://127.0.0.1:0", "--keywords", keywords, "--metrics", "off")
    port = int(service.logged(r"wyoming: tcp://127\.0\.0\.1:(\d+)")[1])
    assert home.add_integration("wyoming", host="127.0.0.1", port=port) == "bellis"
    entity = "wake_word.bellis"
    home.becomes(entity, lambda state: state["state"] != "unavailable")

    def listed():
        return [(word["id"], word["phrase"]) for word in home.ask("wake_word/info", entity_id=entity)["wake_words"]]

    assert listed() == [("several", "several")]
    source = keywords / "several.keyword.toml"
    (keywords / "hey_bellis.keyword.toml").write_text(source.read_text().replace('"several"', '"hey_bellis"', 1))
    assert listed() == [("hey_bellis", "hey bellis"), ("several", "several")]

    # Home Assistant asks for a recogniser, although only the wake word is to be detected.
    languages = {"conversation_language": "en", "language": "en", "stt_language": "en"}
    none = {"tts_engine": None, "tts_language": None, "tts_voice": None}
    engines = {"conversation_engine": "conversation.home_assistant", "stt_engine": "stt.unused", "wake_word_entity": entity}
    fields = languages | none | engines | {"name": "test", "wake_word_id": "several"}
    pipeline = home.ask("assist_pipeline/pipeline/create", **fields)
    stages = {"start_stage": "wake_word", "end_stage": "wake_word", "input": {"sample_rate": 16000, "timeout": 0}}
    number = home.send("assist_pipeline/run", pipeline=pipeline["id"], **stages)
    events = []
    while not events or events[-1]["type"] != "run-end":
        message = home.message()
        assert message["type"] != "result" or message["success"], message
        if message["type"] != "event" or message["id"] != number:
            continue
        events.append(message["event"])
        if events[-1]["type"] == "run-start":
            handler = bytes([events[-1]["data"]["runner_data"]["stt_binary_handler_id"]])
            for first in range(0, 4 * 16000, 1600):
                home.socket.send(handler + long_recording[first : first + 1600].tobytes())
        if events[-1]["type"] == "wake_word-end":
            # The end of the audio.
            home.socket.send(handler)
    [detected] = [event["data"]["wake_word_output"] for event in events if event["type"] == "wake_word-end"]
    assert detected["wake_word_id"] == detected["wake_word_phrase"] == "several", events
    assert abs(detected["timestamp"] - 1660) <= 120
    assert has_value(home.becomes(entity, has_value))
