"""A stand-in for the Hugging Face Hub on loopback: repositories in memory, written and read.

It answers what `hf upload` and `hf_hub_download` ask of it, and files are sent as plain content.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

COMMIT = hashlib.sha1(b'the only one').hexdigest()


class _Answers(http.server.BaseHTTPRequestHandler):
    """One request; `server.files` is {(repository, name): bytes}."""

    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.path == '/api/repos/create':
            asked = json.loads(body)
            name = f'{asked["organization"]}/{asked["name"]}' if 'organization' in asked else 'x/y'
            return self._json({'url': f'{self._url()}/{name}', 'name': name, 'id': name})
        if self.path == '/api/validate-yaml':
            return self._json({'errors': [], 'warnings': []})
        if re.fullmatch(r'/api/models/[^/]+/[^/]+/preupload/main', self.path):
            names = [file['path'] for file in json.loads(body)['files']]
            modes = [{'path': n, 'uploadMode': 'regular', 'shouldIgnore': False} for n in names]
            return self._json({'files': modes})
        found = re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/main', self.path.split('?')[0])
        if not found:
            return self._json({'error': self.path}, status=404)
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                content = base64.b64decode(line['value']['content'])
                self.server.files[found[1], line['value']['path']] = content
        url = f'{self._url()}/{found[1]}/commit/{COMMIT}'
        return self._json({'commitUrl': url, 'commitOid': COMMIT, 'pullRequestUrl': None})

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        found = re.fullmatch(r'/([^/]+/[^/]+)/resolve/[^/]+/(.+)', self.path)
        content = found and self.server.files.get((found[1], found[2]))
        if content is None:
            is_repository = re.fullmatch(r'/api/models/[^/]+/[^/]+(/revision/main)?', self.path)
            facts = {'id': 'x/y', 'sha': COMMIT, 'siblings': [], 'private': False}
            return self._json(facts, status=200 if is_repository else 404)
        self.send_response(200)
        self.send_header('ETag', f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(content)
        return None

    def _json(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        if status == 404:
            self.send_header('X-Error-Code', 'EntryNotFound')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def _url(self):
        return f'http://127.0.0.1:{self.server.server_port}'

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve() -> Iterator[tuple[str, dict[tuple[str, str], bytes]]]:
    """Runs the server; gives its address and {(repository, name): bytes} of what it holds."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Answers)
    server.files = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_port}', server.files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
