#!/usr/bin/env python3
"""Measures three brokers on this machine with librdkafka, and this machine's disk beside them.

    python3 -m venv /tmp/bench && /tmp/bench/bin/pip install confluent-kafka
    /tmp/bench/bin/python chaos/bench/bench.py meridian --binary target/release/meridian
    /tmp/bench/bin/python chaos/bench/bench.py kafka            Apache Kafka 4.3.1, fetched with mvn; needs java 17 and openssl

Every line is durable, encrypted and replicated; the first line says how. Client and brokers share the machine, so CPU says more than MB/s.
"""

import argparse
import pathlib
import tempfile

import load
from accounts import disk_limit, resident_mib
from brokers import Kafka, Meridian
from incidents import INCIDENTS

# Batches of one record, of sixteen, and whatever librdkafka makes of its defaults.
BATCHES = {"1KiB": 1024 + 200, "16KiB": 16 * 1024, "default": None}
RATE = 1000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("broker", choices=["meridian", "kafka"])
    parser.add_argument("--binary", default="target/release/meridian")
    parser.add_argument("--java", default="java")
    parser.add_argument("--port", type=int, default=19390, help="the first of the ports that Kafka is given")
    parser.add_argument("--partitions", type=lambda text: [int(each) for each in text.split(",")], default=[1, 12, 100, 1000])
    parser.add_argument("--loads", type=lambda text: text.split(","), default=["sync", "single", *BATCHES, "consume"])
    parser.add_argument("--incidents", type=lambda text: text.split(","), default=[], help=f"instead of loads: {','.join(INCIDENTS)}")
    parser.add_argument("--many", type=int, default=1000, help="partitions of the incident `many`")
    parser.add_argument("--seconds", type=float, default=10, help="measured, of each line")
    parser.add_argument("--warm-up", type=float, default=3, help="before each line")
    parser.add_argument("--no-warm-up-at-first", action="store_true")
    return parser.parse_args()


COLUMNS = "{:>7} {:>10} {:>9} {:>10} {:>8} {:>8} {:>8} {:>10} {:>10}"
HEADINGS = ("load", "partitions", "MB/s", "records/s", "p50 ms", "p99 ms", "p99.9", "CPU s/GiB", "CPU ms/req")


def show(name, partitions, result):
    def figure(value, digits):
        return "-" if value is None else f"{value:.{digits}f}"

    cells = [name, partitions, figure(result.mb_s, 1), figure(result.records_s, 0)]
    cells += [figure(value, 2) for value in (result.p50_ms, result.p99_ms, result.p999_ms, result.cpu_s_per_gib)]
    print(COLUMNS.format(*cells, figure(result.cpu_ms_per_request, 3)), flush=True)


def measure(brokers, options):
    for partitions in options.partitions:
        for name in options.loads:
            topic = f"{name}-{partitions}"
            if name == "sync" and partitions == 1:
                result = with_topic(brokers, topic, 1, lambda: load.one_by_one(brokers, topic, options.seconds, options.warm_up))
            elif name == "single":
                paced = lambda: load.paced(brokers, topic, partitions, RATE, options.seconds, options.warm_up)
                result = with_topic(brokers, topic, partitions, paced)
            elif name in BATCHES:
                full = lambda: load.full(brokers, topic, partitions, BATCHES[name], options.seconds, options.warm_up)
                result = with_topic(brokers, topic, partitions, full)
            elif name == "consume":
                load.create(brokers.client, topic, partitions)
                load.full(brokers, topic, partitions, None, options.seconds / 2, 0)
                result = load.consume(brokers, topic, 60)
                load.delete(brokers.client, topic)
            else:
                continue
            show(name, partitions, result)


def with_topic(brokers, topic, partitions, work):
    load.create(brokers.client, topic, partitions)
    try:
        return work()
    finally:
        load.delete(brokers.client, topic)


def main():
    options = arguments()

    def launch():
        if options.broker == "meridian":
            return Meridian(str(pathlib.Path(options.binary).resolve()))
        return Kafka(options.java, options.port)

    if options.incidents:
        print(f"{options.broker}: {(Meridian if options.broker == 'meridian' else Kafka).says}")
        for name in options.incidents:
            INCIDENTS[name](launch, options.many)
        return
    for chunk in (1024, 16 << 10, 1 << 20):
        mb_s, ms = disk_limit(chunk, folder=tempfile.gettempdir())
        print(f"the disk alone, one file, write + fdatasync of {chunk >> 10} KiB: {mb_s:.1f} MB/s, {ms:.2f} ms each")
    brokers = launch()
    try:
        if not options.no_warm_up_at_first:
            with_topic(brokers, "warm", 12, lambda: load.full(brokers, "warm", 12, None, brokers.warm_up_seconds, 0))
        print(f"{options.broker}: {brokers.says}; {load.RECORD_BYTES}-byte records, acks=all, no compression; CPU of the three brokers together")
        print(COLUMNS.format(*HEADINGS))
        measure(brokers, options)
        print(f"resident at the end: {resident_mib(brokers.pids):.0f} MiB in all")
    finally:
        brokers.stop()


if __name__ == "__main__":
    main()
