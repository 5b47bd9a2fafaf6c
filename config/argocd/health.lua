-- Health of a TokenPolicy, a BootstrapTokenPolicy or a LegacyTokenPolicy, for Argo CD. Needs nothing beyond Lua's base library.

local function say(status, message)
  return {status = status, message = message}
end

if obj.metadata.deletionTimestamp ~= nil then
  return say("Progressing", "It is being deleted")
end

local status = obj.status
if status == nil or status.observedGeneration == nil then
  return say("Progressing", "The operator has not seen it yet")
end
if status.observedGeneration < obj.metadata.generation then
  return say("Progressing", "The operator has not seen the latest change yet")
end

-- Messages of the conditions that are true, by type.
local is = {}
for _, condition in ipairs(status.conditions or {}) do
  if condition.status == "True" then
    is[condition.type] = condition.message or ""
  elseif condition.type == "Ready" then
    is.NotReady = condition.message or ""
  end
end

if is.Suspended ~= nil then
  return say("Suspended", is.Suspended)
end
if is.Stalled ~= nil then
  return say("Degraded", is.Stalled)
end
if is.Ready ~= nil then
  return say("Healthy", is.Ready)
end
return say("Progressing", is.Reconciling or is.NotReady or "It is being worked on")
