"""The keywords of ssh_config(5), of OpenSSH 10 and earlier: those that a login here takes account of, and the others."""

from __future__ import annotations

from collections.abc import Mapping

_SWITCHES = """
CanonicalizeFallbackLocal Compression GSSAPIAuthentication GSSAPIDelegateCredentials GSSAPIKeyExchange
HostbasedAuthentication IdentitiesOnly KbdInteractiveAuthentication PasswordAuthentication PubkeyAuthentication
TCPKeepAlive
"""
_SINGLE = """
AddressFamily BindAddress CanonicalizeHostname CanonicalizeMaxDots CASignatureAlgorithms Ciphers HostKeyAlgorithms
Hostname HostKeyAlias IdentityAgent IgnoreUnknown KexAlgorithms KnownHostsCommand MACs PKCS11Provider Port
PreferredAuthentications ProxyCommand ProxyJump Tag User
"""
_SEVERAL = """
CanonicalDomains CanonicalizePermittedCNAMEs GlobalKnownHostsFile RekeyLimit SetEnv UserKnownHostsFile
"""
_ADDED = "CertificateFile IdentityFile SendEnv"
_BLOCKS = "Host Include Match"
_OTHERS = """
AddKeysToAgent BatchMode BindInterface ChannelTimeout CheckHostIP ClearAllForwardings ConnectionAttempts ConnectTimeout
ControlMaster ControlPath ControlPersist DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar
ExitOnForwardFailure FingerprintHash ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout
ForwardX11Trusted GatewayPorts GSSAPIClientIdentity GSSAPIKexAlgorithms GSSAPIRenewalForcesRekey GSSAPIServerIdentity
GSSAPITrustDNS HashKnownHosts HostbasedAcceptedAlgorithms HostbasedKeyTypes IPQoS KbdInteractiveDevices
LocalCommand LocalForward LogLevel LogVerbose NoHostAuthenticationForLocalhost
NumberOfPasswordPrompts ObscureKeystrokeTiming PermitLocalCommand PermitRemoteOpen ProxyUseFdpass
PubkeyAcceptedAlgorithms PubkeyAcceptedKeyTypes RefuseConnection RemoteCommand RemoteForward RequestTTY RequiredRSASize
RevokedHostKeys SecurityKeyProvider ServerAliveCountMax ServerAliveInterval SessionType StdinNull StreamLocalBindMask
StreamLocalBindUnlink StrictHostKeyChecking SyslogFacility Tunnel TunnelDevice UpdateHostKeys VerifyHostKeyDNS
VersionAddendum VisualHostKey WarnWeakCrypto XAuthLocation
"""
_OUTDATED = """
AFSTokenPassing Cipher CompressionLevel FallBackToRsh GlobalKnownHostsFile2 KerberosAuthentication KerberosTgtPassing
Protocol ProtocolKeepAlives RhostsAuthentication RhostsRSAAuthentication RSAAuthentication SetupTimeOut
UseBlacklistedKeys UsePrivilegedPort UserKnownHostsFile2 UseRoaming UseRsh
"""  # OpenSSH or a distribution of it accepts them, to no effect
_VENDORS = "RSAMinSize UseKeychain"  # Red Hat's and Apple's ssh accept them


def _table(*texts: str) -> dict[str, str]:
    return {name.lower(): name for text in texts for name in text.split()}


SWITCHES, SEVERAL, ADDED, BLOCKS = (frozenset(_table(text)) for text in (_SWITCHES, _SEVERAL, _ADDED, _BLOCKS))
"""With yes or no; with several values; of which every line counts; that begin a block or a file."""

NAMES: Mapping[str, str] = _table(_SWITCHES, _SINGLE, _SEVERAL, _ADDED)
"""What a login takes account of, by its name in lower case."""

KNOWN: Mapping[str, str] = {**NAMES, **_table(_BLOCKS, _OTHERS, _OUTDATED, _VENDORS)}
"""All that OpenSSH accepts, apart from the aliases."""

ALIASES: Mapping[str, str] = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "dsaauthentication": "pubkeyauthentication",
    "identityfile2": "identityfile",
    "keepalive": "tcpkeepalive",
    "skeyauthentication": "kbdinteractiveauthentication",
    "smartcarddevice": "pkcs11provider",
    "tisauthentication": "kbdinteractiveauthentication",
}
