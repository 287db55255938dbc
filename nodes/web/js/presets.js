// The preset of the patch node: graphs of older versions stay custom, and inputs that a chosen
// preset decides are disabled.
import { app } from "../../../scripts/app.js"

const PATCH = "RadialAttentionPatch"
const CUSTOM = "custom"
const DECIDED = [
  "dense_steps",
  "dense_last_steps",
  "dense_blocks",
  "sink_frames",
  "decay",
  "lists",
  "budget"
]
const SECONDS = 8 // that a message stays

// Nodes are in these sets until the code that restores or creates them returns.
const restored = new WeakSet() // from a file, the clipboard or undo: with links of their own
const created = new WeakSet()

function addForNow(nodes, node) {
  nodes.add(node)
  queueMicrotask(() => nodes.delete(node))
}

function widgetOf(node, name) {
  return node.widgets?.find((each) => each.name === name)
}

function isLinked(node, name) {
  return node.inputs?.some((each) => each.widget?.name === name && each.link != null)
}

/** Whether a preset decides. A linked one is not known before the run. */
function decides(node) {
  return widgetOf(node, "preset").value !== CUSTOM && !isLinked(node, "preset")
}

function disableDecided(node) {
  const disabled = decides(node)
  for (const name of DECIDED) widgetOf(node, name).disabled = disabled
  node.setDirtyCanvas?.(true, true)
}

function setCustom(node) {
  const preset = widgetOf(node, "preset")
  preset.value = CUSTOM
  preset.callback?.(CUSTOM) // HTML nodes of older frontends read the value again then
}

function tell(severity, detail) {
  const summary = "Radial Attention Patch"
  app.extensionManager?.toast?.add({ severity, summary, detail, life: SECONDS * 1000 })
}

/** Call `after` with the same arguments each time that the method was called. */
function follow(object, method, after) {
  const before = object[method]
  object[method] = function () {
    const result = before?.apply(this, arguments)
    after.apply(this, arguments)
    return result
  }
}

function onNodeCreated() {
  addForNow(created, this)
  follow(widgetOf(this, "preset"), "callback", () => onPreset(this))
  for (const name of DECIDED) follow(widgetOf(this, name), "callback", () => onDecided(this))
  disableDecided(this)
}

function onPreset(node) {
  if (created.has(node)) addForNow(restored, node)
  disableDecided(node)
  const unused = DECIDED.filter((name) => isLinked(node, name)).join(", ")
  if (unused && decides(node) && !restored.has(node)) {
    const { value } = widgetOf(node, "preset")
    tell("warn", `The preset ${value} does not use what is linked to ${unused}; custom does.`)
  }
}

/** The page opens a graph for the API without configure(): it creates a node and sets the values in
 *  the file right away. Without a preset among them, it is custom, as it is when it is run.
 */
function onDecided(node) {
  if (created.has(node) && !restored.has(node)) setCustom(node)
}

/** Anyone who links a value wants it used. */
function onConnectionsChange(type, index, connected, link) {
  const name = this.inputs?.[index]?.widget?.name
  if (type !== LiteGraph.INPUT || !name || restored.has(this)) return
  if (name === "preset") disableDecided(this)
  else if (connected && link && DECIDED.includes(name) && decides(this)) {
    setCustom(this)
    tell("info", `The preset is custom now, because ${name} is linked.`)
  }
}

app.registerExtension({
  name: "RadialAttention.Presets",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== PATCH) return
    follow(nodeType.prototype, "onNodeCreated", onNodeCreated)
    follow(nodeType.prototype, "onConnectionsChange", onConnectionsChange)
    const { configure } = nodeType.prototype
    nodeType.prototype.configure = function () {
      addForNow(restored, this)
      widgetOf(this, "preset").value = CUSTOM // stays if the graph, an older one, has no value
      configure.apply(this, arguments)
      disableDecided(this)
    }
  }
})
