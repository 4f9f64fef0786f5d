"""Relays between a source and a worker: of bytes (a TCP proxy with faults) and of messages (a Zenoh worker that passes tasks on)."""

import asyncio
import math
import random
import threading
import time

import zenoh

PREFIX = "bellis/1/worker"
# A lossy link as TCP shows it: a segment that is lost holds back all that follow, for a round trip if others behind it reveal the loss,
# and otherwise for Linux's shortest retransmission timeout as well.
SEGMENT_BYTES = 1448
RETRANSMISSION_SECONDS = 0.2


class ByteRelay:
    """A TCP proxy with a delay, a rate and lost segments, which can break, hold and refuse connections. Runs on a thread of its own."""

    def __init__(self, target, port=0, delay=0.0, bytes_per_second=None, loss=0.0, seed=1):
        self.target, self.port = target, port
        self.delay, self.bytes_per_second, self.loss = delay, bytes_per_second, loss
        self.random = random.Random(seed)
        self.held, self.refused = False, False
        self.writers = set()
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True).start()
        self.ready.wait()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    def cut(self):
        """Breaks every connection."""
        self.loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self.writers)])

    async def _accept(self, reader, writer):
        if self.refused:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, there_writer}
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        self.writers -= {writer, there_writer}

    def _retransmissions(self, length, last):
        """Time that lost segments of a block cost; nothing follows it on the connection if it is the `last` one."""
        seconds = 0.0
        for _ in range(math.ceil(length / SEGMENT_BYTES)):
            while self.random.random() < self.loss:
                seconds += 2 * self.delay + (RETRANSMISSION_SECONDS if last else 0.0)
        return seconds

    async def _pump(self, reader, writer):
        # Bytes leave `delay` after they came, at the given rate; at most 64 blocks are under way.
        queue = asyncio.Queue(64)

        async def deliver():
            free = 0.0
            while (item := await queue.get()) is not None:
                came, block = item
                start = max(came + self.delay, free) + self._retransmissions(len(block), queue.empty())
                free = max(free, start)
                if self.bytes_per_second:
                    free = start + len(block) / self.bytes_per_second
                    start = free
                while self.held or time.monotonic() < start:
                    await asyncio.sleep(max(0.001, min(0.05, start - time.monotonic())))
                writer.write(block)
                await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        try:
            while block := await reader.read(4096):
                await queue.put((time.monotonic(), block))
            await queue.put(None)
            await delivery
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            delivery.cancel()
            writer.transport.abort()


class MessageRelay:
    """A worker on Zenoh that passes tasks on to another worker, and delays, repeats, reorders and damages messages."""

    FAULTS = ("delay", "repeat task", "repeat answer", "reorder", "damage task", "damage answer", "lose task", "lose answer")

    def __init__(self, port, worker_port, worker, name, seed):
        self.name, self.worker = name, worker
        self.random = random.Random(seed)
        self.faults = []
        self.counts = dict.fromkeys(self.FAULTS, 0)
        self.lock = threading.Lock()
        self.kept = None
        self.far = self._session([f"tcp/127.0.0.1:{worker_port}"], [])
        self.near = self._session([], [f"tcp/127.0.0.1:{port}"])
        self.near.declare_queryable(f"{PREFIX}/{name}/task", self._task)
        self.near.declare_queryable(f"{PREFIX}/{name}/echo", lambda query: query.reply(query.key_expr, query.payload))
        self.far.declare_subscriber(f"{PREFIX}/{worker}/state", self._state)
        self.token = self.near.liveliness().declare_token(f"{PREFIX}/{name}")

    @staticmethod
    def _session(connect, listen):
        config = zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("connect/endpoints", str(connect).replace("'", '"'))
        config.insert_json5("listen/endpoints", str(listen).replace("'", '"'))
        config.insert_json5("scouting/multicast/enabled", "false")
        return zenoh.open(config)

    def _state(self, sample):
        self.near.put(f"{PREFIX}/{self.name}/state", sample.payload)

    def inject(self, fault):
        """Applies `fault` to the next task."""
        with self.lock:
            self.faults.append(fault)

    def _task(self, query):
        threading.Thread(target=self._pass_on, args=(query,), daemon=True).start()

    def _ask(self, task):
        replies = self.far.get(f"{PREFIX}/{self.worker}/task", payload=task, timeout=3.0)
        return [bytes(reply.ok.payload) for reply in replies if reply.ok]

    def _pass_on(self, query):
        task = bytes(query.payload) if query.payload else b""
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
            if fault:
                self.counts[fault] += 1
        if fault == "delay":
            time.sleep(self.random.uniform(0.01, 0.4))
        if fault == "lose task":
            return
        if fault == "damage task":
            place = self.random.randrange(max(len(task), 1))
            task = task[:place] + bytes([self.random.randrange(256)]) + task[place + 1 :]
        if fault == "reorder":
            # It goes on after the next task, or after half a second.
            passed = threading.Event()
            with self.lock:
                self.kept = passed
            passed.wait(0.5)
        else:
            with self.lock:
                kept, self.kept = self.kept, None
            if kept:
                threading.Timer(0.005, kept.set).start()
        try:
            answers = self._ask(task)
            if fault == "repeat task":
                answers += self._ask(task)
            for answer in answers:
                if fault == "lose answer":
                    continue
                if fault == "damage answer":
                    place = self.random.randrange(max(len(answer), 1))
                    answer = answer[:place] + bytes([self.random.randrange(256)]) + answer[place + 1 :]
                query.reply(query.key_expr, answer)
                if fault == "repeat answer":
                    query.reply(query.key_expr, answer)
        except zenoh.ZError:
            pass
        finally:
            query.drop()
