/* Replaces libvulkan.so.1 when the Vulkan module is linked.
 *
 * The module then also loads on machines without a Vulkan loader (the package looks for one first), and a wheel with it
 * needs no library beyond those of its platform tag. These are the functions that llama.cpp calls by name; it gets all
 * others from vkGetInstanceProcAddr. The linker reports any that is missing here.
 */
#include <dlfcn.h>
#include <vulkan/vulkan_core.h>

static PFN_vkVoidFunction find(const char *name) {
    static void *loader; /* a race is harmless: all threads find the same one */
    if (loader == NULL) {
        loader = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    }
    return loader == NULL ? NULL : (PFN_vkVoidFunction)dlsym(loader, name);
}

#define THE(function) ((PFN_##function)find(#function))

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name) {
    static PFN_vkGetInstanceProcAddr function;
    if (function == NULL) {
        function = THE(vkGetInstanceProcAddr);
    }
    return function == NULL ? NULL : function(instance, name);
}

/* The rest takes an instance or a device, which only exists if there is a loader. */

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char *name) {
    return THE(vkGetDeviceProcAddr)(device, name);
}

VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceFeatures2(VkPhysicalDevice device, VkPhysicalDeviceFeatures2 *features) {
    THE(vkGetPhysicalDeviceFeatures2)(device, features);
}

VKAPI_ATTR void VKAPI_CALL vkCmdCopyBuffer(
    VkCommandBuffer commands, VkBuffer from, VkBuffer to, uint32_t count, const VkBufferCopy *regions) {
    static PFN_vkCmdCopyBuffer function; /* called for every copy */
    if (function == NULL) {
        function = THE(vkCmdCopyBuffer);
    }
    function(commands, from, to, count, regions);
}
