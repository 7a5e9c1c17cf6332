"""SSH sessions that end in the proxy: users proved, channels ruled and recorded, origins reached with other keys.

bridge            the two SSH connections of a session, from their sockets to their end
connections       asyncssh's connections with bounds; exchange: a host key that signs in the proxy
client            what the client meets: host key, proof of who it is, channels
origin            what the origin meets: its host key verified, a certificate or key shown
session_channels  shells, commands and subsystems; server_channel: how their requests are answered
forwarding        ports, Unix sockets, the client's agent and display
channels          one channel of each side, tied together; held: what waits in them
ruling            whether a channel may be, and its record
algorithms        what is offered and accepted
endings           how a session ended, in the words of flow records
sftp, scp         the file operations in a stream, and those that are refused; transfers: which commands move files
recording         what a terminal showed, as asciicast
"""
