"""Loads on librdkafka (confluent-kafka): what a producer or consumer got, and what the brokers paid for it.

Latencies of paced loads are counted from the instant a record was due, not from when a late client came to send it.
"""

import json
import random
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from accounts import Account, percentiles

RECORD_BYTES = 1024
# At full load one record in so many is timed: a callback each would make the client the limit.
TIMED_EVERY = 50


def payloads(count=2000):
    """JSON as applications write it; distinct, so that nothing can be cached."""
    chance = random.Random(1)
    out = []
    for _ in range(count):
        order = {"id": f"{chance.getrandbits(128):032x}", "country": chance.choice("DE US JP BR".split()), "items": []}
        while len(json.dumps(order)) < RECORD_BYTES - 100:
            order["items"].append({"sku": f"SKU-{chance.randrange(10**6):06}", "quantity": chance.randrange(9), "price": round(chance.random() * 500, 2)})
        text = json.dumps(order)
        out.append((text[:-1] + ',"note":"' + "".join(chance.choices("abcdefghij", k=RECORD_BYTES - len(text) - 10)) + '"}').encode())
    return out


PAYLOADS = payloads()


class Result:
    """What one load came to; `line` is what is printed of it."""

    def __init__(self, records, requests, payload_bytes, account, latencies_ms):
        self.seconds = account.seconds()
        self.mb_s = payload_bytes / 1e6 / self.seconds
        self.records_s = records / self.seconds
        cpu = account.cpu_seconds()
        self.cpu_s_per_gib = cpu / (payload_bytes / 2**30) if payload_bytes else None
        self.cpu_ms_per_request = cpu * 1e3 / requests if requests else None
        self.p50_ms, self.p99_ms, self.p999_ms = percentiles(latencies_ms)


def create(client, topic, partitions, await_replicas=True):
    """Resolves with the answer, or once every partition has a leader and three replicas in sync."""
    admin = AdminClient(client)
    admin.create_topics([NewTopic(topic, partitions, 3)], operation_timeout=60, request_timeout=120)[topic].result()
    if not await_replicas:
        return
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = admin.list_topics(topic, timeout=10).topics[topic]
        if len(found.partitions) == partitions and all(p.leader >= 0 and len(p.isrs) == 3 for p in found.partitions.values()):
            return
        time.sleep(0.05)
    raise RuntimeError(f"topic {topic} does not come up")


def delete(client, topic):
    # Named, so that it lives until the answer.
    admin = AdminClient(client)
    admin.delete_topics([topic], operation_timeout=60)[topic].result()


class Driver:
    """A producer whose callbacks run on a thread of their own."""

    def __init__(self, client, **settings):
        self.requests = 0
        self.errors = 0
        fixed = {
            "acks": "all",
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 65_536,
            "batch.num.messages": 1_000_000,
            "socket.nagle.disable": True,
            "statistics.interval.ms": 200,
            "stats_cb": self.note_requests,
        }
        self.producer = Producer({**client, **fixed, **settings})
        self.running = True
        self.thread = threading.Thread(target=self.poll, daemon=True)
        self.thread.start()

    def note_requests(self, statistics):
        brokers = json.loads(statistics)["brokers"].values()
        self.requests = sum(broker.get("req", {}).get("Produce", 0) for broker in brokers)

    def poll(self):
        while self.running:
            self.producer.poll(0.1)

    def close(self):
        if self.producer.flush(60):
            self.errors += 1
        self.running = False
        self.thread.join()
        if self.errors:
            raise RuntimeError(f"{self.errors} records were not acknowledged")


def paced(brokers, topic, partitions, rate, seconds, warm_up):
    """Single records, each its own request, `rate` a second in an open loop."""
    driver = Driver(brokers.client, **{"linger.ms": 0, "batch.num.messages": 1, "batch.size": RECORD_BYTES})
    latencies, account, measured = [], None, 0
    begun = time.monotonic()
    for number in range(int(rate * (warm_up + seconds))):
        due = begun + number / rate
        if (early := due - time.monotonic()) > 0:
            time.sleep(early)
        if account is None and due - begun >= warm_up:
            account, measured = Account(brokers.pids), number

        def delivered(error, _, due=due):
            driver.errors += error is not None
            if due - begun >= warm_up:
                latencies.append((time.monotonic() - due) * 1e3)

        driver.producer.produce(topic, PAYLOADS[number % len(PAYLOADS)], partition=number % partitions, on_delivery=delivered)
    requests = number + 1 - measured
    result = Result(requests, requests, requests * RECORD_BYTES, account, [])
    driver.close()
    result.p50_ms, result.p99_ms, result.p999_ms = percentiles(latencies)
    return result


def one_by_one(brokers, topic, seconds, warm_up):
    """One synchronous producer: the next record is sent when the last is acknowledged."""
    driver = Driver(brokers.client, **{"linger.ms": 0})
    acknowledged = threading.Semaphore(0)

    def delivered(error, _):
        driver.errors += error is not None
        acknowledged.release()

    latencies, account, begun, number = [], None, time.monotonic(), 0
    while time.monotonic() - begun < warm_up + seconds:
        if account is None and time.monotonic() - begun >= warm_up:
            account = Account(brokers.pids)
        sent = time.monotonic()
        driver.producer.produce(topic, PAYLOADS[number % len(PAYLOADS)], partition=0, on_delivery=delivered)
        acknowledged.acquire()
        number += 1
        if account:
            latencies.append((time.monotonic() - sent) * 1e3)
    result = Result(len(latencies), len(latencies), len(latencies) * RECORD_BYTES, account, latencies)
    driver.close()
    return result


def full(brokers, topic, partitions, batch_bytes, seconds, warm_up):
    """As much as goes through, round robin over the partitions. The latency is that of a full queue."""
    driver = Driver(brokers.client, **({"batch.size": batch_bytes, "linger.ms": 5} if batch_bytes else {}))
    state, latencies = {"records": 0, "bytes": 0}, []

    def counted(error, message):
        driver.errors += error is not None
        state["records"] += 1
        state["bytes"] += len(message)

    def timed(sent):
        def delivered(error, message):
            counted(error, message)
            latencies.append((time.monotonic() - sent) * 1e3)

        return delivered

    account, begun, number = None, time.monotonic(), 0
    while True:
        now = time.monotonic()
        if account is None and now - begun >= warm_up:
            account, before, requests = Account(brokers.pids), dict(state), driver.requests
            latencies.clear()
        if now - begun >= warm_up + seconds:
            break
        for _ in range(TIMED_EVERY):
            callback = counted if number % TIMED_EVERY else timed(now)
            while True:
                try:
                    driver.producer.produce(topic, PAYLOADS[number % len(PAYLOADS)], partition=number % partitions, on_delivery=callback)
                    break
                except BufferError:
                    time.sleep(0.001)
            number += 1
    sent, count = state["bytes"] - before["bytes"], state["records"] - before["records"]
    result = Result(count, driver.requests - requests, sent, account, list(latencies))
    driver.close()
    return result


def consume(brokers, topic, seconds_max):
    """Everything of a topic, from its first offset to its end."""
    settings = {"group.id": "bench", "enable.auto.commit": False, "auto.offset.reset": "earliest", "queued.min.messages": 1_000_000}
    settings |= {"queued.max.messages.kbytes": 262_144, "fetch.max.bytes": 64 << 20}
    consumer = Consumer({**brokers.client, **settings})
    found = consumer.list_topics(topic, timeout=10).topics[topic]
    wanted, starts = 0, []
    for partition in found.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
        wanted += high - low
        starts.append(TopicPartition(topic, partition, low))
    account, records, read = Account(brokers.pids), 0, 0
    consumer.assign(starts)
    while records < wanted and account.seconds() < seconds_max:
        for message in consumer.consume(10_000, 0.5):
            if message.error():
                raise KafkaException(message.error())
            records += 1
            read += len(message)
    result = Result(records, 0, read, account, [])
    consumer.close()
    return result
