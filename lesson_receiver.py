"""A receiver in fifteen lines: python3 lesson_receiver.py 8090"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        print("Received:", body.decode(), flush=True)
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    address = ("127.0.0.1", int(sys.argv[1]))
    server = HTTPServer(address, Receiver)
    print("Receiver on http://%s:%d" % address, flush=True)
    server.serve_forever()
