"""The values that ssh_config keywords take, also of those that a login here does not use: ssh refuses the whole file for one
that is wrong. Source: readconf.c of OpenSSH.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from swarmtune.execution.executors.ssh_keywords import KNOWN

_TIME = r"none|([0-9]+[smhdw]?)+"
_SWITCH = "yes|no|true|false"
_ASK = f"{_SWITCH}|ask"
_QOS = r"af[1-4][1-3]|cs[0-7]|ef|le|va|lowdelay|throughput|reliability|none|0x[0-9a-f]{1,2}|[0-9]{1,3}"
_BIND = r"(([^\s:\[\]]*|\[[^\s\]]*\]):)?"
_FREE = r"\S*[$/%]\S*"  # paths of sockets, and what ssh fills in
_SWITCHES = """
BatchMode CheckHostIP ClearAllForwardings EnableEscapeCommandline EnableSSHKeysign ExitOnForwardFailure
ForkAfterAuthentication ForwardX11 ForwardX11Trusted GatewayPorts HashKnownHosts NoHostAuthenticationForLocalhost
PermitLocalCommand ProxyUseFdpass StdinNull StreamLocalBindUnlink VisualHostKey
"""
_CIPHERS = """
3des-cbc aes128-cbc aes192-cbc aes256-cbc aes128-ctr aes192-ctr aes256-ctr aes128-gcm@openssh.com aes256-gcm@openssh.com
chacha20-poly1305@openssh.com rijndael-cbc@lysator.liu.se
"""
_MACS = """
hmac-sha1 hmac-sha1-96 hmac-sha2-256 hmac-sha2-512 hmac-md5 hmac-md5-96 umac-64@openssh.com umac-128@openssh.com
hmac-sha1-etm@openssh.com hmac-sha1-96-etm@openssh.com hmac-sha2-256-etm@openssh.com hmac-sha2-512-etm@openssh.com
hmac-md5-etm@openssh.com hmac-md5-96-etm@openssh.com umac-64-etm@openssh.com umac-128-etm@openssh.com
"""
_KEX = """
diffie-hellman-group1-sha1 diffie-hellman-group14-sha1 diffie-hellman-group14-sha256 diffie-hellman-group16-sha512
diffie-hellman-group18-sha512 diffie-hellman-group-exchange-sha1 diffie-hellman-group-exchange-sha256 ecdh-sha2-nistp256
ecdh-sha2-nistp384 ecdh-sha2-nistp521 curve25519-sha256 curve25519-sha256@libssh.org sntrup761x25519-sha512
sntrup761x25519-sha512@openssh.com mlkem768x25519-sha256 mlkem768nistp256-sha256 mlkem1024nistp384-sha384
"""
_KEYS = """
ssh-ed25519 ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521 ssh-dss ssh-rsa rsa-sha2-256 rsa-sha2-512 ssh-ed448
sk-ssh-ed25519@openssh.com sk-ecdsa-sha2-nistp256@openssh.com webauthn-sk-ecdsa-sha2-nistp256@openssh.com
"""
_CERTIFICATES = " ".join(f"{name.partition('@')[0]}-cert-v01@openssh.com" for name in _KEYS.split())
_OF_KEYS = """
HostKeyAlgorithms PubkeyAcceptedAlgorithms PubkeyAcceptedKeyTypes HostbasedAcceptedAlgorithms HostbasedKeyTypes
CASignatureAlgorithms
"""


def _table(*rows: tuple[str, str]) -> Mapping[str, re.Pattern[str]]:
    return {name.lower(): re.compile(text, re.IGNORECASE) for names, text in rows for name in names.split()}


_FORMS = _table(
    (_SWITCHES, _SWITCH),
    ("ConnectTimeout ForwardX11Timeout ServerAliveInterval", _TIME),
    ("NumberOfPasswordPrompts RequiredRSASize ServerAliveCountMax", "[0-9]{1,9}"),
    ("ConnectionAttempts", "0*[1-9][0-9]{0,8}"),
    ("AddKeysToAgent", f"({_ASK}|confirm|{_TIME})( ({_TIME}))?"),
    ("AddressFamily", "any|inet6?"),
    ("DynamicForward", rf"{_BIND}0*[1-9][0-9]{{0,4}}|{_FREE}"),
    ("RemoteForward", rf"({_BIND}[0-9]{{1,5}}|{_FREE})( \S+)?"),
    ("PermitRemoteOpen", rf"any|none|(\S+:([0-9]+|\*)|{_FREE})( (\S+:([0-9]+|\*)|{_FREE}))*"),
    ("CanonicalizeHostname", f"{_SWITCH}|always"),
    ("ControlMaster", f"{_SWITCH}|ask|auto|autoask"),
    ("ControlPersist", f"{_SWITCH}|{_TIME}"),
    ("EscapeChar", r"none|\^?\S"),
    ("FingerprintHash", "md5|sha(1|256|384|512)"),
    ("ForwardAgent BindInterface RevokedHostKeys", r"\S+"),
    ("IPQoS", f"({_QOS})( ({_QOS}))?"),
    ("LocalForward", r"\S+ \S+"),
    ("LogLevel", "quiet|fatal|error|info|verbose|debug[1-3]?"),
    ("RekeyLimit", rf"(default|(1[6-9]|[2-9][0-9]|[1-9][0-9]{{2,}})[kmg]?|[1-9][0-9]?[kmg])( ({_TIME}))?"),
    ("RequestTTY", f"{_SWITCH}|force|auto"),
    ("SessionType", "none|subsystem|default"),
    ("SetEnv", r"[^= ]+=[^ ]*( [^= ]+=[^ ]*)*"),
    ("StreamLocalBindMask", "0*[0-7]{1,3}"),
    ("StrictHostKeyChecking", f"{_ASK}|off|accept-new"),
    ("SyslogFacility", "daemon|user|authpriv|auth|local[0-7]"),
    ("Tunnel", f"{_SWITCH}|point-to-point|ethernet"),
    ("TunnelDevice", "(any|[0-9]+)(:(any|[0-9]+))?"),
    ("UpdateHostKeys VerifyHostKeyDNS", _ASK),
)
_BLANKS = frozenset(
    {"setenv", "forwardagent", "revokedhostkeys", "localforward"}
)  # whose words may have blanks in quotes
_FAMILIES = _table(
    ("Ciphers", "(3des|aes[0-9]+|chacha20)-.*"),
    ("MACs", "[hu]mac-.*"),
    ("KexAlgorithms", "(diffie-hellman|ecdh|curve|sntrup|mlkem|gss).*"),
    (_OF_KEYS, "(sk-|webauthn-)?(ssh|ecdsa|rsa|mldsa).*"),
)
"""The names of algorithms by keyword, also of later versions of OpenSSH."""

_ALGORITHMS: Mapping[str, frozenset[str]] = {
    **{key: frozenset((_KEYS + _CERTIFICATES).split()) for key in _FAMILIES},
    "ciphers": frozenset(_CIPHERS.split()),
    "macs": frozenset(_MACS.split()),
    "kexalgorithms": frozenset(_KEX.split()),
}
_JUMP = re.compile(r"(?:ssh://)?(?:.+@)?(?:\[[^\]]+\]|[^@:/\[\]\s]+)(?::(?P<port>[0-9]+))?/?")
NEAR = 0.8  # from here on a name is a misspelt one


def value_mistake(key: str, words: Sequence[str]) -> str:
    """Why ssh refuses these words behind a keyword (in lower case), as a sentence without file and line; empty: it may take
    them.
    """
    if key in _ALGORITHMS and len(words) == 1:
        return _algorithm_mistake(key, words[0])
    form = _FORMS.get(key)
    if form is None:
        return ""
    if not words:
        return f"no argument after {KNOWN[key]}"
    shown = [word.replace(" ", "_") for word in words] if key in _BLANKS else words
    if form.fullmatch(" ".join(shown)):
        return ""
    if len(words) > 1 and form.fullmatch(shown[0]):
        return f"{words[1][:40]!r} is too much after {KNOWN[key]}"
    return f"{' '.join(words)[:60]!r} is no value of {KNOWN[key]}"


def _algorithm_mistake(key: str, text: str) -> str:
    family, known = _FAMILIES[key], _ALGORITHMS[key]
    if text.startswith("-"):  # what is taken away need not be there
        return ""
    patterns = key not in ("ciphers", "macs", "kexalgorithms")
    for name in text.removeprefix("+").removeprefix("^").split(","):
        near = difflib.get_close_matches(name[:80], known, 1, NEAR)
        if name in known or (patterns and {"*", "?"} & {*name}):
            continue
        if near or not family.fullmatch(name):
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"{name[:60]!r} in {KNOWN[key]} is no algorithm of ssh{hint}"
    return ""


def jump_mistake(text: str) -> str:
    """As ``value_mistake``, of the value of ProxyJump."""
    for jump in [] if text.lower() == "none" else text.strip().split(","):
        match = _JUMP.fullmatch(jump)
        if match is None or (match["port"] and not 0 < int(match["port"][:9]) < 65536):
            return (
                f"ProxyJump {text[:80]!r}: {jump.strip()[:60]!r} is not [USER@]HOST[:PORT], with a port from 1 to 65535"
            )
    return ""
