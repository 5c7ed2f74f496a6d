"""A gloo group whose connections pass through a relay that can delay, stall and drop what it carries.

Every rank listens on a loopback address of its own and publishes, in the store, the port of its relay instead of its
own. Gloo lets the addresses decide which of two ranks connects, so a relay keeps the address and has another port."""

import socket
import struct
import threading
import time

import torch.distributed as dist


class Relay:
    """Carries what is sent to `address`, both ways, in the manner of `how`."""

    def __init__(self, address, port):
        self.to, self.how, self.chunks, self.ends = (address, port), "carry", 0, []
        self.listener = socket.create_server((address, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(self.to)
            self.ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    def carry(self, source, sink):
        try:
            while data := source.recv(1 << 16):
                self.chunks += 1
                if self.how == "delay":
                    time.sleep(0.01)
                while self.how == "stall":
                    time.sleep(0.05)
                sink.sendall(data)
        except OSError:  # an end is gone: so is the other
            pass
        self.close(source, sink)

    def close(self, *ends):
        for end in ends or self.ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class Published(dist.Store):
    """A store in which this rank's address is that of its relay."""

    def __init__(self, store, address, relays):
        super().__init__()
        self.store, self.address, self.relays = store, address, relays

    def set(self, key, value):
        value = value.encode() if isinstance(value, str) else bytes(value)
        family, own = struct.pack("=H", socket.AF_INET), socket.inet_aton(self.address)
        for at in range(len(value) - 7):
            if value[at : at + 2] == family and value[at + 4 : at + 8] == own:
                port = struct.unpack_from(">H", value, at + 2)[0]
                if port not in self.relays:
                    self.relays[port] = Relay(self.address, port)
                value = value[: at + 2] + struct.pack(">H", self.relays[port].port) + value[at + 4 :]
        self.store.set(key, value)

    def get(self, key):
        return self.store.get(key)

    def add(self, key, value):
        return self.store.add(key, value)

    def wait(self, keys, *timeout):
        self.store.wait(keys, *timeout)

    def check(self, keys):
        return self.store.check(keys)

    def has_extended_api(self):
        return False


def group(path, rank, size, timeout):
    """The default group, and the relays of this rank."""
    address, relays = f"127.0.0.{rank + 1}", {}
    core = dist.distributed_c10d
    gloo = core.ProcessGroupGloo

    class ThroughRelays(gloo):
        def __init__(self, store, rank, size, timeout):
            options = gloo._Options()
            options._devices, options._timeout = [gloo.create_device(hostname=address)], timeout
            super().__init__(Published(store, address, relays), rank, size, options)

    core.ProcessGroupGloo = ThroughRelays
    try:
        store = dist.FileStore(path, size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    finally:
        core.ProcessGroupGloo = gloo
    return relays
