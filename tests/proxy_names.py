"""A plugin of proxy.py: it knows names that no DNS knows, as the proxy of a closed network does."""

from proxy.http.proxy import HttpProxyBasePlugin


class Names(HttpProxyBasePlugin):
    def resolve_dns(self, host, port):
        return ("127.0.0.1" if host.endswith(".example") else None), None
