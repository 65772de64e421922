"""An S3 server for tests: moto, in a thread of the test process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}


class S3(NamedTuple):
    """A running server."""

    endpoint: str

    def bucket(self, name: str) -> str:
        """Make a bucket; its address as `lake.data_path` names it."""
        import boto3  # type: ignore[import-untyped]

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=name)
        return f"s3://{name}/lake"


@contextmanager
def s3_server() -> Iterator[S3]:
    """A server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3(f"http://{host}:{port}")
    finally:
        # Clients keep their connections open: their threads are not waited for.
        server._server.block_on_close = False
        server.stop()
