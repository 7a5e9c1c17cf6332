-- GUE for Wireshark and tshark, which do not know it: `tshark -X lua_script:tools/gue.lua -r FILE`.
--
-- Versions 0 and 1 (draft-ietf-intarea-gue), and the context that the proxy and its sites put into private data: "OX",
-- a version, then fields of type, length and value. What is wrong is marked as malformed; the packet inside is handed on.

local gue = Proto("gue", "Generic UDP Encapsulation")
local PORT = 6080

local fields = {
    version = ProtoField.uint8("gue.version", "Version", base.DEC, nil, 0xC0),
    control = ProtoField.uint8("gue.control", "Control", base.DEC, nil, 0x20),
    hlen = ProtoField.uint8("gue.hlen", "Header length in words", base.DEC, nil, 0x1F),
    protocol = ProtoField.uint8("gue.protocol", "Protocol", base.DEC, { [4] = "IPv4", [41] = "IPv6", [59] = "none" }),
    flags = ProtoField.uint16("gue.flags", "Flags", base.HEX),
    tenant = ProtoField.uint32("gue.tenant", "Tenant"),
    site = ProtoField.uint32("gue.site", "Site"),
    token = ProtoField.string("gue.token", "Token"),
    other = ProtoField.bytes("gue.other", "Other field"),
}
gue.fields = fields
local broken = ProtoExpert.new("gue.broken", "Malformed GUE", expert.group.MALFORMED, expert.severity.ERROR)
gue.experts = { broken }

local inside = { [4] = Dissector.get("ip"), [41] = Dissector.get("ipv6") }

local function mark(tree, text)
    tree:add_proto_expert_info(broken, text)
end

local function inner_length(buffer, offset)
    local nibble = bit.rshift(buffer(offset, 1):uint(), 4)
    if nibble == 4 and buffer:len() >= offset + 20 then
        return 4, buffer(offset + 2, 2):uint()
    elseif nibble == 6 and buffer:len() >= offset + 40 then
        return 41, buffer(offset + 4, 2):uint() + 40
    end
    return nil, 0
end

local function context(buffer, start, stop, tree)
    if stop - start < 3 or buffer(start, 2):string() ~= "OX" then
        return
    end
    local at = start + 3
    while at < stop do
        local kind = buffer(at, 1):uint()
        if kind == 0 then
            at = at + 1
        else
            if at + 2 > stop or at + 2 + buffer(at + 1, 1):uint() > stop then
                return mark(tree, "a field of the context ends behind the header")
            end
            local length = buffer(at + 1, 1):uint()
            local value = buffer(at + 2, length)
            local known = ({ fields.tenant, fields.site, fields.token })[kind] or fields.other
            tree:add(known, value)
            at = at + 2 + length
        end
    end
end

-- One packet at `start` of the datagram; where the next one would begin.
local function dissect(buffer, start, info, root)
    local first = buffer(start, 1):uint()
    local version = bit.rshift(first, 6)
    local header = version == 0 and 4 + 4 * bit.band(first, 0x1F) or 0
    local tree = root:add(gue, buffer(start, math.min(header, buffer:len() - start)))
    if version > 1 then
        mark(tree, "unknown version")
        return buffer:len()
    end
    local protocol
    if version == 0 then
        if buffer:len() - start < header then
            mark(tree, "the header ends behind the datagram")
            return buffer:len()
        end
        tree:add(fields.version, buffer(start, 1))
        tree:add(fields.control, buffer(start, 1))
        tree:add(fields.hlen, buffer(start, 1))
        tree:add(fields.protocol, buffer(start + 1, 1))
        tree:add(fields.flags, buffer(start + 2, 2))
        protocol = buffer(start + 1, 1):uint()
        context(buffer, start + 4, start + header, tree)
    end
    local found, length = inner_length(buffer, start + header)
    if found == nil or (protocol ~= nil and protocol ~= found) then
        mark(tree, "no packet of that protocol inside")
        return buffer:len()
    elseif length > buffer:len() - start - header then
        mark(tree, string.format("the packet inside has %d bytes, not %d", buffer:len() - start - header, length))
        return buffer:len()
    end
    inside[found]:call(buffer(start + header, length):tvb(), info, root)
    return start + header + length
end

-- A capture on the sending machine shows a run of packets before it is cut (UDP_SEGMENT): all of one size but the last.
function gue.dissector(buffer, info, root)
    info.cols.protocol = "GUE"
    local at = 0
    while at < buffer:len() do
        at = dissect(buffer, at, info, root)
    end
    return buffer:len()
end

-- answers go to whatever port the peer is known by: a datagram with such a header and such a packet is GUE
local function looks_like_gue(buffer, info, root)
    if buffer:len() < 4 or buffer(0, 1):uint() >= 0x20 or buffer(2, 2):uint() ~= 0 then
        return false
    end
    local offset = 4 + 4 * buffer(0, 1):uint()
    if buffer:len() <= offset then
        return false
    end
    local found, length = inner_length(buffer, offset)
    if found == nil or found ~= buffer(1, 1):uint() or length > buffer:len() - offset then
        return false
    end
    gue.dissector(buffer, info, root)
    return true
end

DissectorTable.get("udp.port"):add(PORT, gue)
gue:register_heuristic("udp", looks_like_gue)
