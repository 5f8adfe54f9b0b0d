"""What processes cost (CPU seconds, memory) and what the disk could do at best."""

import os
import statistics
import tempfile
import time

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    """User and system time of these processes so far. One that has ended counts as nothing, which no measurement survives unnoticed."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The command's name may hold anything but a last closing parenthesis.
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_A_SECOND


def resident_mib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total / 2**20


class Account:
    """CPU of the brokers and time, from now on."""

    def __init__(self, pids):
        self.pids = pids
        self.cpu = cpu_seconds(pids)
        self.begun = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.begun

    def cpu_seconds(self):
        return cpu_seconds(self.pids) - self.cpu


def percentiles(latencies_ms):
    """p50, p99 and p99.9, or None where there are too few to say."""
    ordered = sorted(latencies_ms)

    def at(share):
        return ordered[int(share * len(ordered))] if len(ordered) * (1 - share) >= 1 else None

    return at(0.5), at(0.99), at(0.999)


def disk_limit(chunk_bytes, bytes_max=256 << 20, seconds_max=3.0, folder=None):
    """MB/s, and the median ms, of writing chunks one behind the other into a preallocated file, each made durable before the next."""
    chunk = os.urandom(chunk_bytes)
    took_ms = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, bytes_max)
        os.fsync(file.fileno())
        begun = time.monotonic()
        written = 0
        while written + chunk_bytes <= bytes_max and time.monotonic() - begun < seconds_max:
            one = time.monotonic()
            os.pwrite(file.fileno(), chunk, written)
            os.fdatasync(file.fileno())
            took_ms.append((time.monotonic() - one) * 1e3)
            written += chunk_bytes
        return written / 1e6 / (time.monotonic() - begun), statistics.median(took_ms)
