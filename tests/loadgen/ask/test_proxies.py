"""no_proxy as curl, Go and requests understand it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmtune.errors import ConfigValidationError
from swarmtune.loadgen.ask.proxies import bypassed, not_understood
from swarmtune.loadgen.ask.target import notes, proxy_for
from swarmtune.loadgen.options import LoadgenOptions


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "expected"),
    [
        ("127.0.0.0/8", "127.0.0.2", 80, True),
        ("10.0.0.0/8", "10.200.3.4", 80, True),
        ("10.0.0.0/8", "11.0.0.1", 80, False),
        ("10.1.2.3/8", "10.9.9.9", 80, True),  # host bits are no mistake
        ("10.0.0.0/8", "10.example", 80, False),
        ("fd00::/8", "fd12::1", 80, True),
        ("fd00::/8", "10.0.0.1", 80, False),
        ("10.0.0.1", "10.0.0.1", 80, True),
        ("10.0.0.1", "110.0.0.1", 80, False),
        ("10.0.0.1:8000", "10.0.0.1", 8000, True),
        ("10.0.0.1:8000", "10.0.0.1", 80, False),
        ("2001:db8::1", "2001:db8:0::1", 80, True),
        ("[2001:db8::1]", "2001:db8::1", 80, True),
        ("[2001:db8::1]:8000", "2001:db8::1", 8000, True),
        ("[2001:db8::1]:8000", "2001:db8::1", 80, False),
        ("example.com", "example.com", 80, True),
        ("example.com", "EXAMPLE.com.", 80, True),
        ("Example.Com", "api.example.com", 80, True),
        ("example.com", "notexample.com", 80, False),
        (".example.com", "api.example.com", 80, True),
        (".example.com", "example.com", 80, True),
        ("*.example.com", "api.example.com", 80, True),
        ("*.example.com", "example.com", 80, False),
        ("example.com:8000", "api.example.com", 8000, True),
        ("example.com:8000", "api.example.com", 443, False),
        ("*", "anything", 80, True),
        ("a.b, c.d  e.f", "e.f", 80, True),
        ("a.b,,c.d,", "x.y", 80, False),
        ("", "x.y", 80, False),
        ("", "localhost", 80, True),
        ("", "127.8.9.1", 80, True),
        ("", "::1", 80, True),
        ("svc_1", "svc_1", 80, True),
    ],
)
def test_exceptions(no_proxy: str, host: str, port: int, expected: bool) -> None:
    assert bypassed(host, port, no_proxy) is expected
    assert not_understood(no_proxy) == []


@given(network=st.ip_addresses(v=4), bits=st.integers(1, 32), host=st.ip_addresses(v=4))
def test_a_network_holds_what_it_holds(network: ipaddress.IPv4Address, bits: int, host: ipaddress.IPv4Address) -> None:
    inside = host in ipaddress.ip_network(f"{network}/{bits}", strict=False)
    assert bypassed(str(host), 80, f"{network}/{bits}") is (inside or host.is_loopback)


@given(st.text(max_size=30), st.text(max_size=20), st.integers(1, 65535))
def test_whatever_stands_there_is_read(no_proxy: str, host: str, port: int) -> None:
    assert isinstance(bypassed(host, port, no_proxy), bool)
    assert all(entry in no_proxy.lower() for entry in not_understood(no_proxy))


@pytest.mark.parametrize("entry", ["10.*", "10.0.0.0/99", "http://a.b", "a*b", "a.b:http", "10.1", "a.b:0"])
def test_what_says_nothing_is_named(entry: str) -> None:
    assert not_understood(f"good.example,{entry}") == [entry]
    assert not bypassed("10.0.0.1", 80, entry)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = ["http://far.example:8000", "http://10.0.0.7:8000"]
    assert notes(urls, LoadgenOptions()) == []
    monkeypatch.setenv("http_proxy", "http://name:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "10.*")
    first, second = notes(urls, LoadgenOptions())
    assert "proxy.example:3128, which $http_proxy names" in first
    assert "secret" not in first
    assert "10.* is not understood" in second
    assert notes(urls, LoadgenOptions(proxy="http://proxy.example:3128")) == []  # as was asked
    monkeypatch.setenv("no_proxy", "10.0.0.0/8,.example")
    assert notes(urls, LoadgenOptions()) == []


def test_the_proxy_for_all_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "proxy.example:3128")
    found = proxy_for("https://far.example", "")
    assert found is not None
    assert (found.host, found.port, found.source) == ("proxy.example", 3128, "$all_proxy")


@pytest.mark.parametrize("proxy", ["socks5://name:secret@proxy.example:1080", "http://", "http://a:x", "https://proxy"])
def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigValidationError, match="http_proxy") as refused:
        notes(["http://far.example"], LoadgenOptions())
    assert "secret" not in str(refused.value)
