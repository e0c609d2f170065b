// Starts what every page needs. Each module says in its head what it does; none needs another one
// to have run first, and a page without scripts shows the same data.
import { startActions } from "./action.js";
import { startFilters } from "./filter.js";
import { startGraph } from "./graph.js";
import { startInputs } from "./inputs.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startPalette } from "./palette.js";
import { startTimes } from "./time.js";
import { startTimeline } from "./timeline.js";
import "./log-view.js";

startTimes();
startTimeline();
startGraph();
startFilters();
startActions();
startInputs();
startPalette();
startKeys();
startLive();
