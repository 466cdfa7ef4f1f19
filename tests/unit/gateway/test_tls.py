"""What the API says of a certificate that it cannot serve with, before it serves; what a broker over TLS needs."""

from pathlib import Path

import pytest
from oslo_config import cfg

from api_gateway.config import register_options
from api_gateway.tls import CertificateUnusable, find_certificate
from compute_agent.contract.broker import find_tls
from compute_agent.contract.transport import create_rpc_transport, register_messaging_options
from devstack.certificates import TlsFiles, make_certificate


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"), "api.example")


def create_conf(certificate: Path | str, key: Path | str) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_options(conf)
    conf([], default_config_files=[])
    conf.set_override("tls_cert_file", str(certificate), group="api")
    conf.set_override("tls_key_file", str(key), group="api")
    return conf


def test_without_a_certificate_it_is_plain_http() -> None:
    assert find_certificate(create_conf("", "")) is None


def test_a_certificate_with_its_key_will_do(files: TlsFiles) -> None:
    found = find_certificate(create_conf(files.certificate, files.key))
    assert found is not None
    assert (found.certificates, found.private_key) == (files.certificate, files.key)


def test_one_without_the_other_is_refused(files: TlsFiles) -> None:
    for names in ((files.certificate, ""), ("", files.key)):
        with pytest.raises(CertificateUnusable, match="name both"):
            find_certificate(create_conf(*names))


def test_what_does_not_fit_together_is_refused(files: TlsFiles, tmp_path: Path) -> None:
    other = make_certificate(tmp_path / "other", "api.example")
    for certificate, key in ((files.certificate, other.key), (files.key, files.key), (tmp_path / "none", files.key), (files.ca, tmp_path)):
        with pytest.raises(CertificateUnusable, match="HTTPS with"):
            find_certificate(create_conf(certificate, key))


def test_a_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, "api.example")
    files.key.chmod(0o644)
    with pytest.raises(CertificateUnusable, match="chmod o="):
        find_certificate(create_conf(files.certificate, files.key))


def test_a_broker_over_tls_is_verified_with_a_file_or_not_spoken_to(files: TlsFiles) -> None:
    conf = cfg.ConfigOpts()
    register_messaging_options(conf)
    conf([], default_config_files=[])
    assert find_tls(conf) is None
    conf.set_override("ssl", True, group="oslo_messaging_rabbit")
    for refuse in (find_tls, create_rpc_transport):
        with pytest.raises(ValueError, match="ssl_ca_file"):
            refuse(conf)
    conf.set_override("ssl_ca_file", str(files.ca), group="oslo_messaging_rabbit")
    tls = find_tls(conf)
    assert tls is not None
    assert tls["ca_certs"] == str(files.ca)
