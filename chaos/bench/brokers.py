"""Three brokers on this machine, ended with this process: `Meridian` as `meridian dev` starts it, `Kafka` from its own jars."""

import base64
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

HERE = pathlib.Path(__file__).parent
START_SECONDS_MAX = 120


class Meridian:
    says = "fdatasync on a majority before each ack, TLS 1.3, OAUTHBEARER, 3 replicas"
    warm_up_seconds = 10

    def __init__(self, binary):
        self.folder = tempfile.mkdtemp(prefix="meridian-bench-")
        command = [binary, "dev", "--regions", "us", "--data-dir", f"{self.folder}/mesh", "--format", "json"]
        # Its own group, and a pipe as standard input: the mesh ends when this process does, however that ends.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if not select.select([self.process.stdout], [], [], START_SECONDS_MAX)[0]:
            raise RuntimeError("the mesh does not start")
        mesh = json.loads(self.process.stdout.readline())
        region = mesh["regions"]["us"]
        self.pids = [node["pid"] for node in region["nodes"]]
        token = mesh["admin_token"]

        def read_token(_):
            return pathlib.Path(token).read_text(encoding="ascii").strip(), time.time() + 3600

        self.client = {
            "bootstrap.servers": region["bootstrap"],
            "log_level": 2,
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": mesh["ca"],
            "sasl.mechanisms": "OAUTHBEARER",
            "oauth_cb": read_token,
        }

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Kafka:
    says = "flush of every message on every replica, min.insync.replicas 2, TLS 1.3, no authentication, 3 replicas"
    # A cold JVM takes twice the CPU.
    warm_up_seconds = 75

    def __init__(self, java, first_port):
        self.folder = tempfile.mkdtemp(prefix="kafka-bench-")
        self.java = java
        self.library = self.fetch()
        self.certify()
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.processes = []
        try:
            for node in (1, 2, 3):
                self.configure(node, first_port, cluster)
            self.processes = [self.launch(node) for node in (1, 2, 3)]
            self.pids = [process.pid for process in self.processes]
            bootstrap = ",".join(f"127.0.0.1:{first_port + node}" for node in (1, 2, 3))
            self.client = {
                "bootstrap.servers": bootstrap,
                "log_level": 2,
                "security.protocol": "SSL",
                "ssl.ca.location": f"{self.folder}/ca.pem",
            }
            self.await_start()
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def fetch():
        """The broker's jars, from its registry on first use, in the user's cache."""
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "meridian" / "clients" / "kafka"
        if not (cache / "complete").exists():
            cache.mkdir(parents=True, exist_ok=True)
            run("mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={cache}")
            (cache / "complete").touch()
        return cache

    def certify(self):
        """An authority of its own, and one certificate for all three."""
        at = self.folder
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        authority = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        run("openssl", "req", "-x509", *key, "-keyout", f"{at}/ca.key", "-out", f"{at}/ca.pem", "-subj", "/CN=bench", *authority)
        names = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext", "basicConstraints=CA:FALSE")
        signed = ("-CA", f"{at}/ca.pem", "-CAkey", f"{at}/ca.key")
        run("openssl", "req", "-x509", *key, *signed, "-keyout", f"{at}/key.pem", "-out", f"{at}/node.pem", "-subj", "/CN=node", *names)
        keys = pathlib.Path(f"{at}/key.pem").read_text(encoding="ascii") + pathlib.Path(f"{at}/node.pem").read_text(encoding="ascii")
        pathlib.Path(f"{at}/keystore.pem").write_text(keys, encoding="ascii")

    def configure(self, node, first_port, cluster):
        at = pathlib.Path(f"{self.folder}/{node}")
        at.mkdir()
        voters = ",".join(f"{n}@127.0.0.1:{first_port + 10 + n}" for n in (1, 2, 3))
        settings = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://127.0.0.1:{first_port + node},CONTROLLER://127.0.0.1:{first_port + 10 + node}",
            "listener.security.protocol.map": "CLIENT:SSL,CONTROLLER:SSL",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": at / "data",
            "log.flush.interval.messages": 1,
            "min.insync.replicas": 2,
            "auto.create.topics.enable": "false",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": f"{self.folder}/keystore.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": f"{self.folder}/ca.pem",
            "ssl.enabled.protocols": "TLSv1.3",
        }
        (at / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="ascii")
        run(self.java, "-cp", f"{self.library}/*", "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(at / "server.properties"))

    def launch(self, node):
        # The heap and collector of Kafka's own start script.
        options = ("-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35")
        at = f"{self.folder}/{node}"
        with open(f"{at}/out.log", "wb") as log:
            command = [self.java, *options, "-cp", f"{self.library}/*", "kafka.Kafka", f"{at}/server.properties"]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def await_start(self):
        admin = AdminClient(self.client)
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                if len(admin.list_topics(timeout=1).brokers) == len(self.processes):
                    return
            except KafkaException:
                pass
            ended = [node for node, process in enumerate(self.processes, 1) if process.poll() is not None]
            if ended or time.monotonic() > until:
                said = pathlib.Path(f"{self.folder}/{(ended or [1])[0]}/out.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"Kafka does not start; the last it said:\n{said[-2000:]}")
            time.sleep(0.1)

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)
