"""MQTT, with mosquitto as the broker and paho as Home Assistant."""

import json
import os
import queue
import shutil
import socket
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest
from conftest import BELLIS, PATIENCE, ROOT

MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
USER, PASSWORD = "bellis", "s3cret word"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Broker:
    """A mosquitto with a password, encrypted or not. It can be stopped and started again."""

    def __init__(self, folder, tls=False):
        self.folder, self.tls, self.port = folder, tls, free_port()
        self.passwords = folder / "passwords"
        self.passwords.touch()
        subprocess.run(["mosquitto_passwd", "-b", self.passwords, USER, PASSWORD], check=True)
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous false", f"password_file {self.passwords}"]
        if tls:
            self.certificates()
            lines += [f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]
        if os.geteuid() == 0:
            # Otherwise it becomes a user who cannot read the folder.
            lines.append("user root")
        self.configuration = folder / "mosquitto.conf"
        self.configuration.write_text("\n".join(lines) + "\n")
        self.process = None
        self.start()

    def certificates(self):
        def openssl(*arguments):
            subprocess.run(["openssl", *map(str, arguments)], cwd=self.folder, check=True, capture_output=True)

        new_key = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
        openssl("req", "-x509", *new_key, "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem")
        openssl("req", *new_key[:3], "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
        (self.folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
        openssl("x509", "-req", "-in", "server.csr", *sign, "-out", "server.pem")

    def start(self):
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.configuration], stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, "mosquitto ended"
                time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self):
        self.process.kill()
        self.process.wait(PATIENCE)


class HomeAssistant:
    """What Home Assistant hears and says."""

    def __init__(self, broker):
        # All messages, and those that were not asked for yet.
        self.received, self.messages = [], queue.Queue()
        self.ready = threading.Event()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.username_pw_set(USER, PASSWORD)
        if broker.tls:
            self.client.tls_set(str(broker.folder / "ca.pem"))
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe([("bellis/#", 1), ("homeassistant/device/#", 1)])
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_message = self.receive
        self.client.connect("localhost" if broker.tls else "127.0.0.1", broker.port)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE)

    def receive(self, _client, _data, message):
        self.received.append(message)
        self.messages.put(message)

    def hears(self, topic, payload=None):
        """Waits for a message of this topic (and payload), and returns its payload."""
        until = time.monotonic() + PATIENCE
        seen = []
        while time.monotonic() < until:
            try:
                message = self.messages.get(timeout=1)
            except queue.Empty:
                continue
            if message.topic == topic and payload in (None, message.payload):
                return message.payload
            seen.append((message.topic, message.payload[:80]))
        raise AssertionError(f"no {topic} {payload}: {seen}")

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path_factory):
    broker = Broker(tmp_path_factory.mktemp("mosquitto"))
    yield broker
    broker.stop()


@pytest.fixture
def home(broker):
    home = HomeAssistant(broker)
    yield home
    home.end()


def configuration(folder, keywords, at, top="", **changes):
    password = folder / "password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    table = {
        "broker": f"{'mqtts' if at.tls else 'mqtt'}://localhost:{at.port}",
        "user": USER,
        "password-file": str(password),
        "name": "Test kitchen",
        "interval": 1.0,
    } | changes
    path = folder / "bellis.toml"
    # JSON strings and numbers are TOML, too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if value is not None]
    path.write_text(f'input = "-"\nmetrics = "off"\nkeywords = "{keywords}"\n{top}\n[mqtt]\n' + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def daemon(bellis, tmp_path, keywords, broker):
    return bellis("--config", configuration(tmp_path, keywords, broker), feed=True)


TOPIC = "bellis/test_kitchen"
DISCOVERY = "homeassistant/device/bellis_test_kitchen/config"


def test_the_device_is_discovered_and_its_entities_are_published(home, daemon, long_recording):
    description = json.loads(home.hears(DISCOVERY))
    assert description["device"]["name"] == "Test kitchen"
    assert description["availability_topic"] == f"{TOPIC}/status"
    components = description["components"]
    assert {one["platform"] for one in components.values()} == {"event", "binary_sensor", "sensor"}
    assert len({one["unique_id"] for one in components.values()}) == 4
    home.hears(f"{TOPIC}/status", b"online")
    home.hears(f"{TOPIC}/speech", b"OFF")
    daemon.hear(long_recording[: 4 * 16000])
    home.hears(f"{TOPIC}/speech", b"ON")
    event = json.loads(home.hears(components["keyword"]["state_topic"]))
    assert event["event_type"] == "several" and 0.3 <= event["score"] <= 1 and event["threshold"] == 0.3
    assert abs(event["end"] - 1.66) < 0.15
    reading = json.loads(home.hears(f"{TOPIC}/reading"))
    assert 0 < reading["exit_layer"] <= 10 and -60 < reading["level_dbfs"] < 0
    # Silence ends speech.
    daemon.hear(0 * long_recording[: 4 * 16000])
    home.hears(f"{TOPIC}/speech", b"OFF")


def test_a_device_without_a_speech_sensor(bellis, tmp_path, keywords, broker, home, long_recording):
    daemon = bellis("--config", configuration(tmp_path, keywords, broker, speech=False), feed=True)
    assert json.loads(home.hears(DISCOVERY))["components"]["speech"] == {"platform": "binary_sensor"}
    daemon.hear(long_recording[: 4 * 16000])
    home.hears(f"{TOPIC}/keyword")
    home.hears(f"{TOPIC}/reading")
    daemon.stop()
    home.hears(f"{TOPIC}/status", b"offline")
    assert not any(message.topic == f"{TOPIC}/speech" for message in home.received)


def test_availability_follows_the_daemon(home, daemon):
    home.hears(f"{TOPIC}/status", b"online")
    daemon.stop()
    home.hears(f"{TOPIC}/status", b"offline")
    assert daemon.process.returncode == 0
    assert not any("mqtt: " in line for line in daemon.log if "connected to" not in line), daemon.log


def test_a_killed_daemon_is_offline_by_its_last_will(home, tmp_path, keywords, broker):
    command = [BELLIS, "serve", "--config", configuration(tmp_path, keywords, broker)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    home.hears(f"{TOPIC}/status", b"online")
    process.kill()
    home.hears(f"{TOPIC}/status", b"offline")
    process.wait(PATIENCE)


def test_the_birth_of_home_assistant_is_answered(home, daemon):
    home.hears(f"{TOPIC}/status", b"online")
    for _ in range(2):
        home.client.publish("homeassistant/status", "online")
        assert json.loads(home.hears(DISCOVERY))["origin"]["name"] == "Bellis"
        home.hears(f"{TOPIC}/status", b"online")
        home.hears(f"{TOPIC}/speech", b"OFF")


def test_new_keywords_are_announced(home, daemon, keywords, long_recording):
    def announced(names):
        """Feeds the daemon until these event types are announced: the folder is read as audio is processed."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            daemon.hear(0 * long_recording[:8000])
            try:
                message = home.messages.get(timeout=0.5)
            except queue.Empty:
                continue
            if message.topic == DISCOVERY and json.loads(message.payload)["components"]["keyword"]["event_types"] == names:
                return
        raise AssertionError(f"{names} are not announced")

    announced(["several"])
    source = keywords / "several.keyword.toml"
    (keywords / "another.keyword.toml").write_text(source.read_text().replace('"several"', '"another"', 1))
    announced(["another", "several"])


def test_a_consumer_of_keywords_and_the_services_share_one_search(bellis, tmp_path, keywords, broker, home, long_recording):
    out = tmp_path / "detections"
    top = f'consumer = ["keyword"]\non-detection = ["/bin/sh", "-c", "echo $BELLIS_KEYWORD $BELLIS_END >>{out}"]'
    daemon = bellis("--config", configuration(tmp_path, keywords, broker, top), feed=True)
    home.hears(f"{TOPIC}/status", b"online")
    daemon.hear(long_recording[: 20 * 16000])
    for _ in range(2):
        line, event = json.loads(daemon.lines.get(timeout=PATIENCE)), json.loads(home.hears(f"{TOPIC}/keyword"))
        assert [line[key] for key in ("keyword", "start", "end", "score")] == [event[key] for key in ("keyword", "start", "end", "score")]
    daemon.stop()
    assert daemon.lines.empty() and not any(message.topic == f"{TOPIC}/keyword" for message in home.messages.queue)
    assert len(out.read_text().splitlines()) == 2
    assert not any("keyword-events" in line for line in daemon.log), "no second consumer searches"


def test_a_broker_that_returns_is_connected_to_again_and_old_events_are_dropped(home, daemon, broker, long_recording):
    home.hears(f"{TOPIC}/status", b"online")
    broker.stop()
    daemon.logged("retrying until it works")
    daemon.hear(long_recording[: 4 * 16000])
    daemon.logged("keyword `several` detected")
    # Longer than a keyword may wait.
    time.sleep(11)
    broker.start()
    daemon.logged("mqtt: connected", 2)
    daemon.hear(long_recording[: 4 * 16000])
    daemon.logged("keyword `several` detected", 2)
    event = json.loads(home.hears(f"{TOPIC}/keyword"))
    assert event["start"] > 4, "the first one is too old"
    daemon.stop()
    assert "1 events were dropped" in "".join(daemon.log), daemon.log


def test_encryption(bellis, tmp_path, tmp_path_factory, keywords, long_recording):
    broker = Broker(tmp_path_factory.mktemp("mosquitto"), tls=True)
    try:
        home = HomeAssistant(broker)
        # A certificate of an unknown authority is refused.
        suspicious = bellis("--config", configuration(tmp_path, keywords, broker), feed=True)
        suspicious.logged("TLS failed.*(?i:UnknownIssuer|invalid peer certificate)")
        trusting = configuration(tmp_path, keywords, broker, ca=str(broker.folder / "ca.pem"))
        daemon = bellis("--config", trusting, feed=True)
        home.hears(f"{TOPIC}/status", b"online")
        daemon.hear(long_recording[: 4 * 16000])
        assert json.loads(home.hears(f"{TOPIC}/keyword"))["event_type"] == "several"
        home.end()
    finally:
        broker.stop()


def test_a_wrong_password_is_reported_and_tried_again(bellis, tmp_path, keywords, broker, long_recording):
    path = configuration(tmp_path, keywords, broker)
    (tmp_path / "password").write_text("wrong")
    daemon = bellis("--config", path, feed=True)
    daemon.logged("refuses the connection.*check user and password-file")
    # Everything else goes on.
    daemon.hear(long_recording[: 4 * 16000])
    daemon.logged("keyword `several` detected")


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 4096, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\xff\xff\xff\x7f", os.urandom(65536)])
def test_a_hostile_broker_is_left_and_delays_nothing(bellis, tmp_path, keywords, long_recording, garbage):
    class Hostile:
        tls = False

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Hostile.port = listener.getsockname()[1]

        def answer():
            while True:
                try:
                    peer, _ = listener.accept()
                    peer.sendall(garbage)
                    peer.recv(4096)
                    peer.close()
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        daemon = bellis("--config", configuration(tmp_path, keywords, Hostile), feed=True)
        daemon.logged("retrying until it works")
        daemon.hear(long_recording[: 4 * 16000])
        daemon.logged("keyword `several` detected")
        daemon.stop()
        listener.shutdown(socket.SHUT_RDWR)


def test_a_keyword_without_a_receipt_is_published_again(bellis, tmp_path, keywords, long_recording):
    """The broker closes the first connection when it has the keyword, and confirms nothing."""
    # Starts of the published keywords, in their order.
    published = []

    def packet(peer):
        head, length, shift = peer.recv(1)[0], 0, 0
        while True:
            byte = peer.recv(1)[0]
            length |= (byte & 127) << shift
            if byte < 128:
                return head, peer.recv(length, socket.MSG_WAITALL) if length else b""
            shift += 7

    def serve(peer, confirms):
        while True:
            head, body = packet(peer)
            if head >> 4 == 1:
                peer.sendall(b"\x20\x02\x00\x00")
            elif head >> 4 == 8:
                peer.sendall(b"\x90\x03" + body[:2] + b"\x00")
            elif head >> 4 == 3:
                after = 2 + int.from_bytes(body[:2], "big")
                if body[2:after].endswith(b"/keyword"):
                    published.append(json.loads(body[after + 2 :])["start"])
                    if not confirms:
                        return
                if head & 6:
                    peer.sendall(b"\x40\x02" + body[after : after + 2])

    class Forgetful:
        tls = False

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Forgetful.port = listener.getsockname()[1]

        def answer():
            for confirms in (False, True):
                peer, _ = listener.accept()
                with peer:
                    try:
                        serve(peer, confirms)
                    except (IndexError, OSError):
                        pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        daemon = bellis("--config", configuration(tmp_path, keywords, Forgetful), feed=True)
        daemon.logged("mqtt: connected")
        deadline = time.monotonic() + PATIENCE
        for count in (2, 3):
            daemon.hear(long_recording[: 4 * 16000])
            while len(published) < count and time.monotonic() < deadline:
                time.sleep(0.05)
        daemon.stop()
        thread.join(PATIENCE)
    first, again, second = published
    assert first == again < second, "one with a receipt is not published again"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"broker": "localhost"}, "mqtt.broker must be mqtt://HOST"),
        ({"user": None}, "mqtt.password-file needs mqtt.user"),
        ({"password-file": "/nowhere"}, "cannot read /nowhere"),
        ({"broker": "mqtts://localhost", "ca": "/etc/hostname"}, "no certificates in PEM format"),
        ({"interval": 0}, "mqtt.interval must be between"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_setting_stops_the_daemon_with_the_reason(tmp_path, keywords, changes, reason):
    class Nowhere:
        port, tls = 1, False

    command = [BELLIS, "serve", "--config", configuration(tmp_path, keywords, Nowhere, **changes)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0 and reason in ended.stderr, ended.stderr
