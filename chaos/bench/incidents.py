"""What a start, a new topic and rest cost, and how long producers wait when a broker is stopped or killed. Each begins with brokers of its own."""

import os
import signal
import threading
import time

from accounts import Account, resident_mib
from load import PAYLOADS, Driver, create

# Single records, round robin over the partitions.
RATE = 1200
PARTITIONS = 12
BEFORE_SECONDS, AFTER_SECONDS = 4, 20
SETTLE_SECONDS = 30


def acknowledged_everywhere(brokers, topic, partitions):
    """Sends one record to each partition and waits for all: seconds."""
    driver = Driver(brokers.client, **{"linger.ms": 0})
    begun = time.monotonic()

    def delivered(error, _):
        driver.errors += error is not None

    for partition in range(partitions):
        driver.producer.produce(topic, PAYLOADS[0], partition=partition, on_delivery=delivered)
    driver.close()
    return time.monotonic() - begun


def start(launch, _):
    """From the launch of three processes to the first acknowledged record of a new topic."""
    begun = time.monotonic()
    brokers = launch()
    try:
        create(brokers.client, "first", 1)
        acknowledged_everywhere(brokers, "first", 1)
        print(f"start, launch to first acknowledgement: {time.monotonic() - begun:.2f} s")
    finally:
        brokers.stop()


def many(launch, partitions):
    """A topic of so many partitions: until each has acknowledged a record, then the brokers' CPU and memory at rest."""
    brokers = launch()
    try:
        begun = time.monotonic()
        create(brokers.client, "many", partitions, await_replicas=False)
        created = time.monotonic() - begun
        acknowledged_everywhere(brokers, "many", partitions)
        took = time.monotonic() - begun
        print(f"create {partitions} partitions: answered after {created:.2f} s, all acknowledged a record after {took:.2f} s")
        time.sleep(SETTLE_SECONDS)
        account = Account(brokers.pids)
        time.sleep(60)
        share = account.cpu_seconds() / account.seconds()
        print(f"at rest with {partitions} partitions: {share:.2%} of one core, {resident_mib(brokers.pids):.0f} MiB resident, three brokers together")
    finally:
        brokers.stop()


def leader_lost(launch, signal_number):
    """Signals the leader of partition 0 under a paced load, and prints what producers saw."""
    brokers = launch()
    try:
        create(brokers.client, "lost", PARTITIONS)
        driver = Driver(brokers.client, **{"linger.ms": 0, "batch.num.messages": 1, "retry.backoff.ms": 10})
        leaders = {number: found.leader for number, found in driver.producer.list_topics("lost", timeout=10).topics["lost"].partitions.items()}
        victim = leaders[0]
        signalled = []

        def strike():
            signalled.append(time.monotonic())
            os.kill(brokers.pids[victim - 1], signal_number)

        timer = threading.Timer(BEFORE_SECONDS, strike)
        timer.start()
        acknowledged = {partition: [] for partition in leaders}
        waits = []
        begun = time.monotonic()
        for number in range(RATE * (BEFORE_SECONDS + AFTER_SECONDS)):
            due = begun + number / RATE
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)

            def delivered(error, message, due=due):
                driver.errors += error is not None
                now = time.monotonic()
                acknowledged[message.partition()].append(now)
                waits.append((now - due, due))

            driver.producer.produce("lost", PAYLOADS[number % len(PAYLOADS)], partition=number % PARTITIONS, on_delivery=delivered)
        timer.join()
        driver.close()
        report(signal_number, victim, leaders, acknowledged, signalled[0], waits)
    finally:
        brokers.stop()


def report(signal_number, victim, leaders, acknowledged, struck, waits):
    def gap(partition):
        """The longest pause between two acknowledgements around the signal."""
        times = [when for when in acknowledged[partition] if when > struck - 1]
        return max((later - earlier for earlier, later in zip(times, times[1:]) if later > struck), default=None)

    def ms(values):
        values = [value for value in values if value is not None]
        return f"{min(values) * 1e3:.0f} to {max(values) * 1e3:.0f} ms" if values else "none"

    led = [partition for partition, leader in leaders.items() if leader == victim]
    others = [partition for partition in leaders if partition not in led]
    firsts = [min((when - struck for when in acknowledged[partition] if when > struck + 0.005), default=None) for partition in led]
    print(
        f"{signal.Signals(signal_number).name} of a leader: first acknowledgement of the {len(led)} partitions it led after {ms(firsts)};"
        f" longest gap of those {ms([gap(partition) for partition in led])}, of the {len(others)} others {ms([gap(partition) for partition in others])};"
        f" longest wait of a record {max(wait for wait, due in waits if due > struck - 1) * 1e3:.0f} ms"
    )


INCIDENTS = {
    "start": start,
    "many": many,
    "term": lambda launch, _: leader_lost(launch, signal.SIGTERM),
    "kill": lambda launch, _: leader_lost(launch, signal.SIGKILL),
}
