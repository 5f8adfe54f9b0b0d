#!/usr/bin/env python3
"""A workload on librdkafka (confluent-kafka), a client nobody here wrote: produces, reads back, and writes down what it was told.

    librdkafka.py leaders  --bootstrap B --ca F --token F --topic T            {"0": 2, "1": 3, …} on stdout
    librdkafka.py elect    …                                                   preferred leaders for all partitions; {"elected": N, "errors": […]}
    librdkafka.py produce  … --history F --rate R [--producer NAME]            until its standard input ends; a summary on stdout
                                                                               each line of its input: how long was waited since the last one
    librdkafka.py read     … --region NAME --history F [--reader NAME]         everything, from the first offset to the end
    librdkafka.py load     … --file F.jsonl.gz                                 one record a line, keyed by its carrier
    librdkafka.py digest   …                                                   {"records": N, "digest": SHA-256 of all records}
    librdkafka.py resume   … --group G --count N                               a group reads half, commits, ends, and goes on
    librdkafka.py connect  …                                                   {"connected": bool, "error": …} within --patience seconds
    librdkafka.py watch    …                                                   reads until refused; {"read": N, "refused": code, "seconds": S}

Histories are those of `meridian-chaos check`: one JSON object a line, values unique and telling where they come from.
"""

import argparse
import gzip
import hashlib
import json
import sys
import threading
import time

from confluent_kafka import Consumer, ElectionType, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

# What librdkafka itself cannot say for certain: the record may or may not be there.
INDETERMINATE = {KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_INFLIGHT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT}


def settings(arguments, **more):
    def token(_):
        with open(arguments.token, encoding="ascii") as file:
            return file.read().strip(), time.time() + 3600

    return {
        "bootstrap.servers": arguments.bootstrap,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": arguments.ca,
        "sasl.mechanisms": "OAUTHBEARER",
        "oauth_cb": token,
        "topic.metadata.refresh.interval.ms": 2000,
        "reconnect.backoff.max.ms": 500,
        # What it says of connections that break is the faults' doing; errors that matter reach the callbacks.
        "log_level": 2,
        **more,
    }


def partitions(client, topic):
    deadline = time.monotonic() + 30
    while True:
        client.poll(0)
        try:
            found = client.list_topics(topic, timeout=5).topics[topic]
            if found.error is None and all(one.leader >= 0 for one in found.partitions.values()):
                return {number: one.leader for number, one in sorted(found.partitions.items())}
        except KafkaException:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"librdkafka.py: no leaders of {topic} within 30 s")
        time.sleep(0.1)


def leaders(arguments):
    print(json.dumps(partitions(AdminClient(settings(arguments)), arguments.topic)))


def elect(arguments):
    admin = AdminClient(settings(arguments))
    wanted = [TopicPartition(arguments.topic, number) for number in partitions(admin, arguments.topic)]
    # Its timeouts cannot be set: the package's binding refuses every one.
    told = admin.elect_leaders(ElectionType.PREFERRED, wanted).result()
    reasons = {place.partition: error.args[0] if isinstance(error, KafkaException) else error for place, error in told.items()}
    needed = {number: error for number, error in reasons.items() if error is None or error.code() != KafkaError.ELECTION_NOT_NEEDED}
    errors = [f"{number}: {error}" for number, error in needed.items() if error is not None]
    print(json.dumps({"elected": len(needed) - len(errors), "errors": errors}))


def produce(arguments):
    producer = Producer(settings(arguments, **{
        "enable.idempotence": True, "acks": "all", "linger.ms": 2, "message.timeout.ms": 60000, "retry.backoff.ms": 20,
        "retry.backoff.max.ms": 200,
    }))
    count = len(partitions(producer, arguments.topic))
    history = open(arguments.history, "a", encoding="utf-8")
    write = lambda **event: history.write(json.dumps(event, separators=(",", ":")) + "\n")
    told = {"acked": 0, "failed": 0, "unknown": 0}
    last = {}
    longest = {}
    start = time.monotonic()
    # Since the last line of input: from send to acknowledgement of each record, and between two acknowledgements of one partition.
    phase = {"waits": [], "gap": 0.0}

    def account():
        waits = sorted(phase["waits"])
        at = lambda share: round(waits[min(int(len(waits) * share), len(waits) - 1)] * 1000, 1) if waits else None
        print(json.dumps({"acked": len(waits), "failed": told["failed"], "unknown": told["unknown"], "p50_ms": at(0.5), "p99_ms": at(0.99),
                          "longest_wait_ms": at(1), "longest_gap_ms": round(phase["gap"] * 1000, 1)}), flush=True)
        phase.update(waits=[], gap=0.0)

    def delivered(sequence, partition, sent):
        def answer(error, message):
            if error is None:
                told["acked"] += 1
                now = time.monotonic()
                gap = now - last.get(partition, start)
                longest[partition] = max(longest.get(partition, 0.0), gap)
                phase["gap"] = max(phase["gap"], gap)
                phase["waits"].append(now - sent)
                last[partition] = now
                write(event="acked", producer=arguments.producer, sequence=sequence, topic=arguments.topic,
                      partition=message.partition(), offset=message.offset())
            elif error.code() in INDETERMINATE:
                told["unknown"] += 1
                write(event="unknown", producer=arguments.producer, sequence=sequence)
            else:
                told["failed"] += 1
                print(f"librdkafka.py: record {sequence}: {error}", file=sys.stderr)
                write(event="failed", producer=arguments.producer, sequence=sequence)
        return answer

    ended, asked = threading.Event(), threading.Event()
    threading.Thread(target=lambda: ([asked.set() for _ in sys.stdin], ended.set()), daemon=True).start()
    sequence = 0
    while not ended.is_set():
        due = int((time.monotonic() - start) * arguments.rate)
        while sequence < due:
            partition, value = sequence % count, f"{arguments.producer}-{sequence}"
            write(event="send", producer=arguments.producer, sequence=sequence, topic=arguments.topic, partition=partition, value=value)
            try:
                producer.produce(arguments.topic, value, partition=partition,
                                 on_delivery=delivered(sequence, partition, time.monotonic()))
            except BufferError:
                write(event="failed", producer=arguments.producer, sequence=sequence)
            sequence += 1
        producer.poll(0.002)
        if asked.is_set():
            asked.clear()
            account()
    producer.flush(70)
    history.close()
    gap = max(longest.values(), default=0.0)
    print(json.dumps({"sent": sequence, **told, "longest_gap_ms": round(gap * 1000), "seconds": round(time.monotonic() - start, 1)}))


def read(arguments):
    consumer = Consumer(settings(arguments, **{
        "group.id": "chaos-reader", "enable.auto.commit": False, "auto.offset.reset": "earliest", "enable.partition.eof": False,
        "fetch.wait.max.ms": 100, "fetch.error.backoff.ms": 50,
    }))
    reader = arguments.reader or f"reader-{arguments.region}"
    history = open(arguments.history, "a", encoding="utf-8")
    write = lambda **event: history.write(json.dumps(event, separators=(",", ":")) + "\n")
    numbers = partitions(consumer, arguments.topic)
    ends = {}
    for number in numbers:
        first, end = consumer.get_watermark_offsets(TopicPartition(arguments.topic, number), timeout=30, cached=False)
        ends[number] = end
    wanted = {number for number, end in ends.items() if end > 0}
    consumer.assign([TopicPartition(arguments.topic, number, 0) for number in wanted])
    deadline = time.monotonic() + arguments.patience
    total = 0
    while wanted:
        if time.monotonic() > deadline:
            sys.exit(f"librdkafka.py: {arguments.region}: not read to the end within {arguments.patience} s: partitions {sorted(wanted)}")
        for message in consumer.consume(500, timeout=0.5):
            if message.error():
                print(f"librdkafka.py: {arguments.region}: {message.error()}", file=sys.stderr)
                continue
            number, offset = message.partition(), message.offset()
            total += 1
            write(event="read", reader=reader, region=arguments.region, **{"pass": 0}, topic=arguments.topic, partition=number,
                  offset=offset, value=message.value().decode())
            if offset + 1 >= ends[number]:
                wanted.discard(number)
    for number, end in ends.items():
        write(event="read_to_end", region=arguments.region, topic=arguments.topic, partition=number, end=end)
    history.close()
    consumer.close()
    print(json.dumps({"read": total, "ends": ends}))


def load(arguments):
    producer = Producer(settings(arguments, **{"enable.idempotence": True, "acks": "all", "linger.ms": 20}))
    partitions(producer, arguments.topic)
    told = {"acked": 0, "failed": 0}

    def delivered(error, _):
        told["acked" if error is None else "failed"] += 1
        if error is not None:
            print(f"librdkafka.py: {error}", file=sys.stderr)

    with gzip.open(arguments.file, "rt", encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            producer.produce(arguments.topic, line, key=json.loads(line)["carrier"], on_delivery=delivered)
            producer.poll(0)
    producer.flush(60)
    print(json.dumps(told))


def digest(arguments):
    consumer = Consumer(settings(arguments, **{"group.id": "digest", "enable.auto.commit": False, "auto.offset.reset": "earliest"}))
    ends = {}
    for number in partitions(consumer, arguments.topic):
        ends[number] = consumer.get_watermark_offsets(TopicPartition(arguments.topic, number), timeout=30, cached=False)[1]
    wanted = {number for number, end in ends.items() if end > 0}
    consumer.assign([TopicPartition(arguments.topic, number, 0) for number in wanted])
    records = []
    deadline = time.monotonic() + arguments.patience
    while wanted and time.monotonic() < deadline:
        for message in consumer.consume(1000, timeout=0.5):
            if message.error():
                sys.exit(f"librdkafka.py: {message.error()}")
            key = (message.key() or b"").decode()
            records.append((message.partition(), message.offset(), key, message.value().decode()))
            if message.offset() + 1 >= ends[message.partition()]:
                wanted.discard(message.partition())
    consumer.close()
    digest = hashlib.sha256()
    for record in sorted(records):
        digest.update("\t".join(map(str, record)).encode() + b"\n")
    print(json.dumps({"records": len(records), "digest": digest.hexdigest()}))


def resume(arguments):
    """Two lives of one group: the second must begin where the first committed."""
    seen = []
    for until in [arguments.count // 2, arguments.count]:
        consumer = Consumer(settings(arguments, **{"group.id": arguments.group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}))
        consumer.subscribe([arguments.topic])
        deadline = time.monotonic() + arguments.patience
        while len(seen) < until and time.monotonic() < deadline:
            for message in consumer.consume(min(500, until - len(seen)), timeout=0.5):
                if message.error():
                    sys.exit(f"librdkafka.py: {message.error()}")
                seen.append((message.partition(), message.offset()))
        # Positions are those behind what was handed out.
        consumer.commit(asynchronous=False)
        consumer.close()
    print(json.dumps({"read": len(seen), "distinct": len(set(seen))}))


def connect(arguments):
    errors = []
    client = AdminClient(settings(arguments, error_cb=lambda error: errors.append(f"{error.name()}: {error.str()}")))
    try:
        found = client.list_topics(timeout=arguments.patience)
        print(json.dumps({"connected": bool(found.brokers), "error": None}))
    except KafkaException as error:
        # What went wrong on the connections is told by callbacks.
        client.poll(0.5)
        named = [text for text in errors if "AUTHENTICATION" in text or "SSL" in text]
        print(json.dumps({"connected": False, "error": (named or errors or [error.args[0].name()])[0][:300]}))


def watch(arguments):
    """Says on stderr when it reads, so that whoever watches may act; ends when it is refused."""
    consumer = Consumer(settings(arguments, **{"group.id": "watch", "enable.auto.commit": False, "auto.offset.reset": "earliest",
                                               "fetch.wait.max.ms": 10000}))
    total, refused, start = 0, None, time.monotonic()
    # A refusal in metadata reaches only who asks for them; later ones are the fetch's own.
    known = consumer.list_topics(arguments.topic, timeout=10).topics[arguments.topic]
    if known.error is not None:
        refused = known.error.name()
    consumer.assign([TopicPartition(arguments.topic, number, 0) for number in range(arguments.count)])
    while refused is None and time.monotonic() - start < arguments.patience:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                refused = message.error().name()
            continue
        if total == 0:
            print("reading", flush=True)
        total += 1
    print(json.dumps({"read": total, "refused": refused, "seconds": round(time.monotonic() - start, 2)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["leaders", "elect", "produce", "read", "load", "digest", "resume", "connect", "watch"])
    for name in ["bootstrap", "ca", "token", "topic"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--history")
    parser.add_argument("--producer", default="p0")
    parser.add_argument("--rate", type=float, default=500.0, help="records a second")
    parser.add_argument("--region", default="")
    parser.add_argument("--reader")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to read everything in")
    parser.add_argument("--file")
    parser.add_argument("--group")
    parser.add_argument("--count", type=int, default=0)
    arguments = parser.parse_args()
    commands = {"leaders": leaders, "elect": elect, "produce": produce, "read": read, "load": load, "digest": digest, "resume": resume,
                "connect": connect, "watch": watch}
    commands[arguments.command](arguments)


if __name__ == "__main__":
    main()
