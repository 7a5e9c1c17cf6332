"""A sentence for each key of a lab file about sessions that are read, and about what is written of them."""

from __future__ import annotations

INSPECTION: dict[str, dict[str, str]] = {
    "LabTenant": {"inspection": "How the tenant's sessions are read, where something says that they are."},
    "Overrides": {"inspectors": "How many processes read sessions; auto: one for each core."},
    "Inspection": {
        "minimum": "The lowest TLS version of either side.",
        "bad_certificate": "What a client gets when the origin's certificate cannot be verified.",
        "trust": "PEM files of root certificates beside the system's.",
        "system_trust": "Whether the system's root certificates are trusted.",
        "ca": "An authority that exists already; without it, one is made at the first start.",
        "permitted": "Domains and prefixes that a new authority may sign for; without any, all.",
        "learn_pinned": "Pass for a while what the client refused when it was inspected.",
        "pinned_s": "For how long, in seconds.",
        "ssh": "How SSH is read; without it, SSH is passed unread.",
    },
    "ImportedAuthority": {
        "file": "PEM with its chain, or PKCS#12.",
        "key": "The file of its private key, where that is a file of its own.",
        "password": "The password of the private key.",
        "password_file": "The file of that password.",
    },
    "SSHInspection": {
        "trust": "How users prove who they are: by a key or certificate, or by their tunnel alone.",
        "keys": "Public keys of each user.",
        "user_cas": "Public keys of authorities that sign certificates of users.",
        "onward": "What origins are shown: a certificate for the session, or a private key.",
        "onward_key": "The file of that private key.",
        "principals": "Names in the certificate; {user} is the user name that the client asks for.",
        "certificate_s": "How long a certificate is valid, in seconds.",
        "known_hosts": "A file of known origins; others are refused.",
        "local_forwarding": "Whether clients may forward ports to the origin's side.",
        "remote_forwarding": "Whether clients may forward ports to their own side.",
        "file_transfer": "Whether files may be copied by SFTP and scp.",
        "record": "Whether terminals are recorded, as asciicast.",
        "record_input": "Whether the lines that users type are recorded as well.",
        "recording_version": "Version of asciicast.",
        "recording_keys": "Public keys of age that recordings are encrypted to.",
        "recording_bytes": "Maximum size of one recording.",
        "needs_recording": "Whether a channel ends when its recording fails.",
        "hash_files": "Whether records of files that are copied hold their SHA-256.",
    },
    "Timeouts": {
        "sniff_s": "Until a client has shown what it speaks; after that it is relayed unread.",
        "tls_s": "For the TLS handshakes of both sides.",
        "drain_s": "For inspected sessions to end when the proxy stops.",
    },
    "Records": {
        "audit": "A file of flow records as JSON lines.",
        "requests": "A file with a JSON line for each HTTP request that was read.",
    },
    "Audit": {
        "path": "The file; older ones are beside it.",
        "max_bytes": "Size at which a new file begins.",
        "events": "Which events of a flow are written.",
    },
    "LineFile": {
        "path": "The file; older ones are beside it.",
        "max_bytes": "Size at which a new file begins.",
    },
}
