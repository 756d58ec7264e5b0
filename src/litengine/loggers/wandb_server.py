"""Whether a Weights & Biases server is there and knows the key, asked within seconds."""

import threading

PROBE_SECONDS = 3.0  # a healthy server answers in well under one


def probe(base_url: str, api_key: str) -> str:
    """Asks a W&B server who the key belongs to, for at most 3 s in all. Returns what is wrong, or an empty string."""
    answer = [f"{base_url} does not answer within {PROBE_SECONDS:g} s"]

    def ask() -> None:
        import requests  # W&B's own: knows the proxies and certificates that W&B will use

        query = {"query": "query Viewer { viewer { id } }"}
        try:
            reply = requests.post(f"{base_url}/graphql", json=query, auth=("api", api_key), timeout=PROBE_SECONDS)
            known = reply.ok and reply.json()["data"]["viewer"]
        except (ValueError, KeyError, TypeError):
            answer[0] = f"{base_url} is not a W&B server"
        except requests.Timeout:
            pass
        except requests.RequestException:
            answer[0] = f"{base_url} is not reachable"
        else:
            refused = reply.ok or reply.status_code in (401, 403)
            trouble = "does not accept the API key" if refused else f"answers HTTP {reply.status_code}"
            answer[0] = "" if known else f"{base_url} {trouble}"

    # In a thread, because a dead name server holds up the look-up of the host for longer than any time-out of requests.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 0.5)
    return answer[0]
