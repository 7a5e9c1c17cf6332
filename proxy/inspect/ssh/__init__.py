"""Inspected SSH sessions: authenticates users, applies policy to channels, records them, logs in at origins.

bridge            the two SSH connections of a session, from their sockets to their end
connections       asyncssh's connections, with limits; exchange: host keys that sign in the proxy
client            the client's side: host key, authentication, channels
origin            the origin's side: verification of its host key, login with a certificate or key
session_channels  shells, commands and subsystems; server_channel: answers to their requests
forwarding        forwarded ports, Unix sockets, agents and displays
channels          pairs of channels, one on each side; held: their queues
ruling            decides about a channel, and keeps its record
algorithms        the algorithms offered and accepted
endings           the close reason of a session
sftp, scp         file operations in a stream; transfers: the commands that move files
recording         recordings of terminals, as asciicast
"""
