from support import Listener, Pair, Program

def test_all(pair: Pair, listener: Listener):
    pair.register(listener.url(), "payment_received", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    a = pair.trigger("payment_received", {"a": 1}, Prefer="wait=5")
    assert a.status == 200, a
    assert b'"event"' in listener.next()

def test_prog(tmp_path):
    with Program("exposee.py", "--port", "0", cwd=tmp_path) as p:
        assert p.port
        assert p.stop() == 0
