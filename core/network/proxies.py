"""The proxy the environment asks for: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, in either case."""

from urllib.request import getproxies, proxy_bypass

from core.network.url import Target


def proxy_for(target: Target) -> str:
    """The proxy's URL for `target`, '' for a direct connection.

    The proxy is the administrator's and is not vetted. It resolves the names itself; see `vet_behind_proxy`.
    """
    proxies = getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(target.authority):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"
