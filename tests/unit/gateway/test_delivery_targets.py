"""What a subscription may lead to, by its text and by the addresses that a name turns out to have."""

import pytest

from api_gateway.deliveries.addresses import is_allowed, parse_network
from api_gateway.deliveries.targets import TargetRefused, TargetRules, parse_url

HTTPS_ONLY = TargetRules()
LOOPBACK = (parse_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(address, ())


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::5db8:d70e",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "hooks.example",
        "",
    ],
)
def test_special_addresses_are_refused_in_whatever_form_they_come(address: str) -> None:
    assert not is_allowed(address, ())


def test_an_allowed_network_allows_its_own_addresses_only() -> None:
    assert is_allowed("127.0.0.1", LOOPBACK)
    assert is_allowed("::ffff:127.0.0.1", LOOPBACK)
    assert not is_allowed("::1", LOOPBACK)
    assert not is_allowed("10.0.0.1", LOOPBACK)


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "authority"),
    [
        ("https://Hooks.Example", "hooks.example", 443, "/", "hooks.example"),
        ("https://hooks.example.:443/a?b=c&d", "hooks.example", 443, "/a?b=c&d", "hooks.example"),
        ("https://hooks.example?b", "hooks.example", 443, "/?b", "hooks.example"),
        ("http://hooks.example:443/", "hooks.example", 443, "/", "hooks.example:443"),
        ("https://[2606:2800::1]:8443/x", "2606:2800::1", 8443, "/x", "[2606:2800::1]:8443"),
        ("https://93.184.215.14/x", "93.184.215.14", 443, "/x", "93.184.215.14"),
    ],
)
def test_a_url_has_one_reading(text: str, host: str, port: int, path: str, authority: str) -> None:
    url = parse_url(text)
    assert (url.host, url.port, url.path, url.authority) == (host, port, path, authority)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hooks.example",
        "ftp://hooks.example/",
        "https://",
        "https:///x",
        "https://user@hooks.example/",
        "https://user:password@hooks.example/",
        "https://hooks.example#fragment",
        "https://hooks.example/#fragment",
        "https://hooks.example\\@127.0.0.1/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: other",
        "https://hooks.example/\n",
        "https://hooks.example:0/",
        "https://hooks.example:65536/",
        "https://hooks.example:http/",
        "https://bücher.example/",
        "https://-hooks.example/",
        "https://hooks..example/",
        "https://2130706433/",
        "https://127.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://[::1%25lo]/",
        "https://[hooks.example]/",
        "https://" + "a." * 130 + "example/",
        "https://hooks.example/" + "a" * 2048,
    ],
)
def test_what_could_be_read_in_two_ways_is_no_url(text: str) -> None:
    with pytest.raises(TargetRefused):
        parse_url(text)


@pytest.mark.parametrize(
    "text", ["https://127.0.0.1/", "https://[::1]/", "https://[::ffff:7f00:1]/", "https://localhost/", "https://a.LOCALHOST./"]
)
def test_what_is_known_to_lead_inside_is_refused_at_once(text: str) -> None:
    with pytest.raises(TargetRefused, match="allowed_networks"):
        HTTPS_ONLY.check_webhook(text)


def test_what_the_operator_allows_is_allowed() -> None:
    assert TargetRules(allowed_networks=LOOPBACK).check_webhook("https://localhost:8443/x").port == 8443
    with pytest.raises(TargetRefused, match="allow_plain_http"):
        TargetRules(allowed_networks=LOOPBACK).check_webhook("http://127.0.0.1/")
    assert not TargetRules(allowed_networks=LOOPBACK, allow_plain_http=True).check_webhook("http://127.0.0.1/").is_https


@pytest.mark.parametrize("text", ["ops@example.com", "first.last+crashcart@mail.example.com", "root@localhost", "o'brien@example.com"])
def test_usual_addresses_are_taken(text: str) -> None:
    HTTPS_ONLY.check_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ops",
        "@example.com",
        "ops@",
        "ops@@example.com",
        "a@example.com,b@example.com",
        "a@example.com b@example.com",
        "ops@example.com\n",
        "ops@example.com\r\nBcc: other@example.com",
        "Ops <ops@example.com>",
        '"ops"@example.com',
        ".ops@example.com",
        "ops@exämple.com",
        "ops@" + "a." * 126 + "example.com",
    ],
)
def test_anything_but_one_address_is_refused(text: str) -> None:
    with pytest.raises(TargetRefused):
        HTTPS_ONLY.check_address(text)


def test_mail_goes_to_allowed_domains_only_where_there_are_some() -> None:
    rules = TargetRules(mail=True, mail_domains=("Example.com",))
    rules.check_address("ops@example.COM")
    with pytest.raises(TargetRefused, match="allowed_domains"):
        rules.check_address("ops@sub.example.com")
