"""How the gateway listens, answers connections, reports its health and ends."""
