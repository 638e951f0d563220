"""EC2's metadata service as others understand it: not part of `cargo test`, see docs/reliability.md.

    python3 -m venv target/peers && target/peers/bin/pip install -r tests/peers/requirements.txt
    cargo build --bins --examples && target/peers/bin/python tests/peers/ec2.py

Two parts:

1. start-worker asks moto's metadata service, which somebody else has written. moto has no user-data, no identity document
   and no notices (it answers 500 for what it does not know), so a relay in front of it adds those, and hands everything
   else on as it is: the session token and all of /latest/meta-data/.
2. The client library ec2-metadata reads the fake that our own tests use.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ec2_metadata import EC2Metadata
from moto.instance_metadata.responses import INSTANCE_METADATA
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

BUILT = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target")) / "debug"
LIMIT = 60

DOCUMENT = json.dumps({
    "instanceId": INSTANCE_METADATA["instance-id"],
    "imageId": INSTANCE_METADATA["ami-id"],
    "instanceType": INSTANCE_METADATA["instance-type"],
    "region": INSTANCE_METADATA["placement/region"],
    "availabilityZone": INSTANCE_METADATA["placement/availability-zone"],
    "privateIp": INSTANCE_METADATA["local-ipv4"],
})
USER_DATA = {
    "aws": {
        "workerPoolId": "pp/ww", "providerId": "aws-example", "workerGroup": "us-east-1",
        "rootUrl": "https://tc.example.com",
    },
    "aws-provisioner": {
        "provisionerId": "pp", "workerType": "ww", "region": "us-east-1", "securityToken": "made-up",
        "taskclusterRootUrl": "https://tc.example.com", "data": {}, "capacity": 1,
    },
}


def relay(moto, user_data):
    """Starts the relay; hands back its origin, and the paths that moto has answered."""
    own = {
        "/latest/user-data": json.dumps(user_data),
        "/latest/dynamic/instance-identity/document": DOCUMENT,
        "/latest/dynamic/instance-identity/signature": "made-up",
    }
    handed_on = []

    class Relay(BaseHTTPRequestHandler):
        def answer(self):
            if self.path in own:
                return 200, own[self.path].encode()
            if self.path.startswith("/latest/meta-data/spot/"):
                return 404, b""
            headers = {name: value for name, value in self.headers.items() if name.lower().startswith("x-aws")}
            request = urllib.request.Request(moto + self.path, method=self.command, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    handed_on.append(f"{self.command} {self.path}")
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def do_GET(self):
            status, body = self.answer()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", handed_on


def shown_by_start_worker(provider, origin):
    """What start-worker makes of that metadata service: the dummy worker shows its run."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runner.yml"
        config.touch(mode=0o600)
        config.write_text(json.dumps({
            "provider": {"providerType": provider}, "worker": {"implementation": "dummy"}, "getSecrets": False,
        }))
        environment = {**os.environ, "START_WORKER_EC2_METADATA_URL": origin, "RUNTIME_DIRECTORY": folder}
        ended = subprocess.run(
            [BUILT / "start-worker", config], env=environment, stderr=subprocess.PIPE, text=True, timeout=LIMIT,
        )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def start_worker_asks_moto():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for provider, keys in [
            ("aws", ["public-hostname", "public-ipv4"]),
            ("aws-provisioner", [
                "ami-id", "instance-id", "instance-type", "placement/availability-zone", "local-ipv4", "public-hostname",
                "public-ipv4",
            ]),
        ]:
            origin, handed_on = relay(f"http://{host}:{port}", USER_DATA[provider])
            shown = shown_by_start_worker(provider, origin)
            assert handed_on[0] == "PUT /latest/api/token", handed_on
            for key in keys:
                assert f"GET /latest/meta-data/{key}" in handed_on, (key, handed_on)
                name, value = key.rsplit("/", 1)[-1], INSTANCE_METADATA[key]
                lines = [line for line in shown.splitlines() if name in line and value in line]
                assert lines, f"no {name} {value!r} in\n{shown}"
            print(f"{provider}: {len(handed_on)} answers of moto's understood")
    finally:
        server.stop()


def ec2_metadata_reads_the_fake():
    fake = subprocess.Popen(
        [BUILT / "examples/fake-metadata", "ec2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    try:
        origin = fake.stdout.readline().strip()
        client = EC2Metadata()
        client.service_url = f"{origin}/latest/"
        client.dynamic_url = f"{client.service_url}dynamic/"
        client.metadata_url = f"{client.service_url}meta-data/"
        found = {
            "ami_id": "ami-5fb8c835", "instance_id": "i-1234567890abcdef0", "instance_type": "m5.large",
            "availability_zone": "us-west-2b", "region": "us-west-2", "private_ipv4": "10.158.112.84",
            "public_ipv4": "203.0.113.17", "spot_instance_action": None,
            "public_hostname": "ec2-203-0-113-17.us-west-2.compute.amazonaws.com", "account_id": "123456789012",
        }
        for name, value in found.items():
            assert getattr(client, name) == value, (name, getattr(client, name))
        fake.stdin.write(
            'set /latest/meta-data/spot/instance-action {"action": "terminate", "time": "2026-11-24T18:02:00Z"}\n'
        )
        fake.stdin.flush()
        assert fake.stdout.readline() == "ok\n"
        action = client.spot_instance_action
        assert action is not None and action.action == "terminate", action
        print(f"ec2-metadata: {len(found) + 1} values of the fake's understood")
    finally:
        fake.stdin.close()
        fake.wait(timeout=LIMIT)


if __name__ == "__main__":
    start_worker_asks_moto()
    ec2_metadata_reads_the_fake()
    sys.exit(0)
